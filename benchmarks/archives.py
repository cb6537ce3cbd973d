"""Run `jobs/benchmark.py archives`: listing and reading images in tars on S3, compared with loose objects.

An S3 server (moto) in another process holds the tars. The first part lists members of small files and plans
them. The second part reads, decodes and proposes for one photograph many times, in tars and as loose objects
of the same server, one after the other. Each part has its own process, whose memory is measured.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa

from benchmarks import CHECKOUT
from benchmarks.config import ArchivesConfig
from benchmarks.memory import peak_mb
from benchmarks.results import write_results
from demo import servers
from fastrcnn.config import ProposalConfig
from pipeline import storage
from pipeline.proposals.candidate import ReadSettings
from pipeline.proposals.reading import read_chunks
from pipeline.record import plan
from pipeline.runtime.prefetch import in_threads
from pipeline.scoring.selection import select
from pipeline.storage.archives.writing import end_of, header_of, padding
from pipeline.storage.s3_client import S3Client

_BODY = b"\xff\xd8\xff" + bytes(97)
_BUCKET = "archives"
_TASK = 512
"""Images of one task, as of a large run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One line of the table."""

    what: str
    images: int
    seconds: float
    cpu_seconds: float
    """CPU time of the process."""
    requests: int
    base_mb: float
    """Memory of the process before the work: the imported packages, mostly torch and Ray."""
    added_mb: float
    """Peak of the memory of the process, less `base_mb`."""
    plan_bytes: int = 0


def run(config: ArchivesConfig) -> None:
    """Measure, print a table, and write results.json."""
    shutil.rmtree(config.output, ignore_errors=True)
    config.output.mkdir(parents=True)
    servers.use_demo_credentials()
    with servers.s3_server(config.output):
        servers.create_bucket(_BUCKET)
        _upload_members(config)
        data = config.image.read_bytes()
        _upload_photographs(data, config.photographs)
        results = [
            _measure("list", f"s3://{_BUCKET}/small/*.tar", config),
            _measure("read", f"s3://{_BUCKET}/photographs/*.tar", config),
            _measure("read", f"s3://{_BUCKET}/loose", config),
        ]
    print(
        f"{'':<26}{'images':>10}{'s':>8}{'CPU s':>8}{'per s':>9}{'per CPU s':>11}"
        f"{'requests/image':>16}{'plan B/image':>14}{'base MB':>9}{'added MB':>10}"
    )
    for one in results:
        print(
            f"{one.what:<26}{one.images:>10}{one.seconds:>8.1f}{one.cpu_seconds:>8.1f}"
            f"{one.images / one.seconds:>9.0f}{one.images / one.cpu_seconds:>11.0f}"
            f"{one.requests / one.images:>16.4f}{one.plan_bytes / one.images:>14.1f}{one.base_mb:>9.0f}"
            f"{one.added_mb:>10.0f}"
        )
    write_results(config, [asdict(one) for one in results])


def _tar(names: Iterator[str], data: bytes) -> bytes:
    out = io.BytesIO()
    for name in names:
        out.write(header_of(name.encode(), len(data)) + data + padding(len(data)))
    out.write(end_of(out.tell()))
    return out.getvalue()


def _upload_members(config: ArchivesConfig) -> None:
    """Upload `config.tars` tars with `config.members` small files in all."""
    each = config.members // config.tars

    def upload(number: int) -> None:
        names = (f"{number:04d}/{member:07d}.jpg" for member in range(each))
        storage.write_bytes(f"s3://{_BUCKET}/small/{number:04d}.tar", _tar(names, _BODY))

    in_threads(upload, range(config.tars), threads=2)


def _upload_photographs(data: bytes, count: int) -> None:
    """Upload so many copies of a photograph, loose and in tars of a thousand."""
    for first in range(0, count, 1000):
        names = (f"{n:07d}.jpg" for n in range(first, min(count, first + 1000)))
        uri = f"s3://{_BUCKET}/photographs/{first // 1000:04d}.tar"
        storage.write_bytes(uri, _tar(names, data))
    in_threads(
        lambda n: storage.write_bytes(f"s3://{_BUCKET}/loose/{n:07d}.jpg", data), range(count)
    )


def _measure(way: str, images: str, config: ArchivesConfig) -> Result:
    command = [sys.executable, "-m", "benchmarks.archives", way, images, str(config.output)]
    variables = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    output = subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE).stdout
    return Result(**json.loads(output.splitlines()[-1]))


def measure(way: str, images: str, output: str) -> Result:
    """List and plan the images, or read them."""
    requests, base_mb = _count_requests(), peak_mb(os.getpid())
    folder = f"{output}/{way}-{os.getpid()}"
    started, cpu = time.monotonic(), time.process_time()
    selection = select(images)
    planned = plan.extend(folder, selection.listed, shard_size=1000)
    if way == "list":
        what = "list and plan members"
    else:
        what = "read " + ("loose objects" if images.endswith("loose") else "members of tars")
        before = requests()
        started, cpu = time.monotonic(), time.process_time()
        settings = ReadSettings(proposals=ProposalConfig(name="grid", max_boxes=100))
        rows = pa.concat_tables(planned.shard(shard) for shard in range(planned.num_shards))
        for first in range(0, rows.num_rows, _TASK):
            for chunk in read_chunks(rows.slice(first, _TASK), settings, max_images=32):
                if set(chunk["status"].to_pylist()) != {"ok"}:
                    raise RuntimeError(f"not all images were read: {chunk['error'].to_pylist()}")
    return Result(
        what=what,
        images=planned.num_images,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu,
        requests=requests() - (before if way == "read" else 0),
        base_mb=base_mb,
        added_mb=peak_mb(os.getpid()) - base_mb,
        plan_bytes=sum(info.size or 0 for info in storage.list_objects(f"{folder}/plans")),
    )


def _count_requests() -> Callable[[], int]:
    """Count the requests that this process sends to S3 from now on."""
    sent: list[None] = []
    attempt = S3Client._attempt

    def counted(self: S3Client, *arguments: object) -> object:
        sent.append(None)
        return attempt(self, *arguments)  # type: ignore[arg-type]

    S3Client._attempt = counted  # type: ignore[method-assign, assignment]
    return lambda: len(sent)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(*sys.argv[1:]))))
