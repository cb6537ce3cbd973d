"""Run `jobs/benchmark.py scale`: memory and time of the driver for buckets of up to ten million keys.

A server on loopback answers S3 list requests for keys that it computes. A process lists the bucket and plans.
Then it gets a row for every key from a replacement of the detector, in blocks out of order, as from Ray. A
second process runs the same command when all is finished. The table has the time of each step, the peak
memory so far, and what was written. No image is read or scored.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa

from benchmarks import CHECKOUT
from benchmarks.config import ScaleConfig
from benchmarks.results import write_results
from pipeline import record
from pipeline.record import plan
from pipeline.record.checks import check_record
from pipeline.record.committer import Committer
from pipeline.record.manifest import current_shards, write_manifest
from pipeline.schema import RESULT, scored_metadata
from pipeline.scoring.selection import select

_PAGE = 1000
_BLOCK = 128
"""Rows per block."""
_SHARDS_UNDER_WAY = 32
_BOXES = 3
_RUN = "0" * 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One line of the table."""

    keys: int
    step: str
    seconds: float
    peak_mb: float
    """Peak memory of the process since its start."""
    note: str
    """What was written, for the last column."""


def run(config: ScaleConfig) -> None:
    """Measure, print a table, and write results.json."""
    config.output.mkdir(parents=True, exist_ok=True)
    steps: list[Step] = []
    for keys in config.keys:
        folder = config.output / f"{keys}"
        shutil.rmtree(folder, ignore_errors=True)
        with bucket_of(keys) as endpoint:
            for part in ("first", "second"):
                command = [sys.executable, "-m", "benchmarks.scale", part, str(keys)]
                command += [str(folder), str(config.shard_size)]
                environment = {**os.environ, **_client(endpoint), "PYTHONPATH": str(CHECKOUT)}
                output = subprocess.run(
                    command, env=environment, check=True, stdout=subprocess.PIPE
                ).stdout
                steps += [Step(**step) for step in json.loads(output)]
        shutil.rmtree(folder)
    lines = [f"{'keys':>10}  {'step':<34}{'s':>8}{'keys/s':>10}{'peak MB':>9}  "]
    for step in steps:
        rate = step.keys / max(step.seconds, 1e-3)
        lines.append(
            f"{step.keys:>10}  {step.step:<34}{step.seconds:>8.1f}{rate:>10.0f}{step.peak_mb:>9.0f}  "
            f"{step.note}"
        )
    print("\n".join(lines))
    write_results(config, [asdict(step) for step in steps])


def first_command(keys: int, folder: str, shard_size: int) -> list[Step]:
    """List, plan, and commit a row for every key."""
    steps: list[Step] = []
    with _step(steps, keys, "list, 16 requests at a time"):
        listed = select("s3://photos/images").listed
    with _step(steps, keys, "plan"):
        planned = plan.extend(folder, listed, shard_size=shard_size)
    plan_bytes, plan_files = _size(Path(folder) / "plans")
    note = f"{plan_files} objects, {plan_bytes / keys:.1f} bytes a key"
    steps[-1] = replace(steps[-1], note=note)
    listed.close()
    with _step(steps, keys, "commit rows in blocks, out of order"):
        committer = Committer(
            output=folder,
            run_id=_RUN,
            plan=planned,
            to_do=range(planned.num_shards),
            metadata=scored_metadata(("cat",), "stand-in"),
        )
        for block in blocks(planned):
            committer.add(block)
        committer.close()
    with _step(steps, keys, "manifest"):
        manifest = write_manifest(folder, _RUN, planned, committer.shards)
    scored_bytes, files = _size(Path(folder) / "scored")
    note = f"{manifest.rows} rows, {files} objects, {scored_bytes / keys:.0f} bytes a key"
    return [*steps[:-1], replace(steps[-1], note=note)]


def second_command(keys: int, folder: str, shard_size: int) -> list[Step]:
    """Run the same command again, when all is finished."""
    steps: list[Step] = []
    with _step(steps, keys, "again: list, check, compare"):
        listed = select("s3://photos/images").listed
        checked = check_record(folder, _RUN, plan.read(folder))
        plan.add_planned_images(checked.plan, listed)
        planned = plan.extend(folder, listed, shard_size=shard_size)
        planned, done = current_shards(folder, _RUN, planned)
        left = record.missing_shards(planned, done)
        listed.close()
    note = f"{len(planned.generations)} generation, {len(left)} shards to do"
    return [replace(steps[-1], note=note)]


@contextmanager
def _step(steps: list[Step], keys: int, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps.append(Step(keys=keys, step=name, seconds=round(seconds, 2), peak_mb=peak, note=""))


def _size(folder: Path) -> tuple[int, int]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files), len(files)


def _client(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def blocks(planned: plan.Plan, seed: int = 0) -> Iterator[pa.Table]:
    """Yield a result row for every planned image, in shuffled blocks; a few shards are open at a time."""
    shuffle = random.Random(seed)
    for first in range(0, planned.num_shards, _SHARDS_UNDER_WAY):
        last = min(first + _SHARDS_UNDER_WAY, planned.num_shards)
        rows = [planned.shard(shard) for shard in range(first, last)]
        pieces = [
            table.slice(start, _BLOCK)
            for table in rows
            for start in range(0, table.num_rows, _BLOCK)
        ]
        shuffle.shuffle(pieces)
        yield from map(_scored, pieces)


def _scored(rows: pa.Table) -> pa.Table:
    """Make result rows for planned images, with `_BOXES` boxes each, as the detector would."""
    count = rows.num_rows
    detections = RESULT.field("detections").type
    box = detections.value_type
    values = np.arange(count * _BOXES, dtype=np.float32)
    flat = pa.StructArray.from_arrays(
        [
            pa.array(["cat"] * len(values)),
            pa.array(np.ones(len(values), np.int16)),
            *[pa.array(values)] * 5,
        ],
        fields=[box.field(index) for index in range(box.num_fields)],
    )
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * _BOXES)
    same: dict[str, Sequence[object]] = {
        "width": [640] * count,
        "height": [480] * count,
        "status": ["ok"] * count,
        "error": [None] * count,
        "model_id": ["stand-in"] * count,
        "run_id": [_RUN] * count,
        "scored_at": [0] * count,
        "num_proposals": [1000] * count,
        "num_detections": [_BOXES] * count,
        "detect_s": [0.0] * count,
    }
    columns = [
        pa.ListArray.from_arrays(offsets, flat, type=detections)
        if field.name == "detections"
        else pa.array(same[field.name], field.type)
        if field.name in same
        else rows[field.name]
        if field.name in rows.column_names
        else pa.nulls(count, field.type)
        for field in RESULT
    ]
    return pa.table(columns, schema=RESULT)


@contextmanager
def bucket_of(keys: int) -> Iterator[str]:
    """Start a server with one bucket of `keys` objects, all under images/; give its URL. It only lists."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(404, b"")

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            self._answer(200, list_page(keys, query.get("start-after", [""])[0]))

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: a line per page would be too many."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def list_page(keys: int, after: str) -> bytes:
    """Write S3's answer to ListObjectsV2 after a key."""
    low = bisect_right(range(keys), after, key=_key)
    last = min(low + _PAGE, keys)
    entries = "".join(
        f"<Contents><Key>{_key(n)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"{n * 0x9E3779B97F4A7C15 % 2**128:032x}"</ETag><Size>{100_000 + n % 1000}</Size></Contents>'
        for n in range(low, last)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><EncodingType>url</EncodingType>'
        f"<IsTruncated>{'true' if last < keys else 'false'}</IsTruncated>{entries}</ListBucketResult>"
    ).encode()


def _key(number: int) -> str:
    return f"images/{number // 10_000:05d}/{number % 10_000:04d}.jpg"


if __name__ == "__main__":  # a process that loads only what a driver needs
    PARTS = {"first": first_command, "second": second_command}
    measured = PARTS[sys.argv[1]](int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    print(json.dumps([asdict(step) for step in measured]))
