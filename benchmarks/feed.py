"""Run `jobs/benchmark.py feed`: from a folder of images to pixels in an actor that does nothing with them.

Each round measures, one after the other:

    decode       bare decoding, by one thread and by one thread a core: what the cores can do at most
    header       the scoring job when the model proposes: the reader checks headers, and the actor decodes
    twice        the scoring job with given proposals: the reader decodes to propose, and the actor again
    read_images  Ray's `read_images` and an actor
    daft         Daft's download and decoding, and an actor; without Ray, in the environment of `make peers`

The rates of the last four are those of their middle rows, because a start takes seconds. All use the same
cores, number of actors and images.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from benchmarks.config import FeedConfig
from benchmarks.images import photographs, upload
from benchmarks.peers import require_peers, run_module
from benchmarks.rates import rate_of_all
from benchmarks.results import write_results
from fastrcnn.config import LEARNED, ProposalConfig
from pipeline import images, score
from pipeline.config import ScoreConfig
from pipeline.proposals.candidate import ReadSettings, decode_candidates
from pipeline.record import plan
from pipeline.runtime import cluster
from pipeline.runtime.attempts import Attempts, SharedAttempts
from pipeline.scoring.resources import Resources, size_cluster
from pipeline.scoring.selection import select

_DONE = pa.schema([pa.field("scored_at", pa.timestamp("us", tz="UTC"))])
_ONE_BOX = 1
"""Proposals an image where they are given: making them takes no time."""


class DecodingActor:
    """Stands for a Detector whose network takes no time: it decodes candidates, and drops the pixels."""

    def __init__(self, *, attempts: Attempts, threads: int) -> None:
        self._attempts, self._threads = attempts, threads

    def __call__(self, candidates: pa.Table) -> pa.Table:
        """Decode a batch, guarded as the Detector's."""
        key = f"detect {candidates['image_uri'][0]}"
        self._attempts.begin(key)
        rows, decoded = decode_candidates(candidates, threads=self._threads)
        self._attempts.end_with_next(key)
        if bad := [row["error"] for row in rows if row["status"] != "ok"]:
            raise RuntimeError(f"not decoded: {bad[0]}")
        _touch(decoded)
        return _done(len(rows))


class PixelActor:
    """Takes the pixels that `read_images` gives, and drops them."""

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> pa.Table:
        """Read some pixels of each image."""
        _touch(batch["image"])
        return _done(len(batch["image"]))


def _touch(images: Iterable[npt.ArrayLike]) -> None:
    """Read some pixels of each image, as an upload would."""
    for pixels in images:
        np.asarray(pixels)[::64, ::64].sum()


def run(config: FeedConfig) -> None:
    """Measure, print a table, and write results.json.

    Raises:
        UserError: a folder without images, or no environment with Daft.
    """
    require_peers("Daft")
    paths = photographs(config.images, config.count)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        uri = upload(paths, str(Path(folder) / "images"))
        for number in range(config.rounds):
            for name, measure in _ways(config, paths, uri, Path(folder) / str(number)):
                rates.setdefault(name, []).append(measure())
    write_results(config, {"images_per_second": rates})
    print("\n".join(_lines(rates)))


def _ways(
    config: FeedConfig, paths: list[Path], uri: str, output: Path
) -> Iterator[tuple[str, Callable[[], float]]]:
    cores = os.cpu_count() or 1
    yield "decode, 1 thread", lambda: _bare(paths, 1)
    yield f"decode, {cores} threads", lambda: _bare(paths, cores)
    learned, given = (ProposalConfig(name=n, max_boxes=_ONE_BOX) for n in (LEARNED, "grid"))
    header = ReadSettings(proposals=learned, decode=False)
    yield "header", lambda: _on_ray(config, uri, output / "header", header)
    twice = ReadSettings(proposals=given)
    yield "twice", lambda: _on_ray(config, uri, output / "twice", twice)
    yield "read_images", lambda: _on_ray(config, uri, output / "ray", None)
    yield "daft", lambda: _daft(config, uri)


def _bare(paths: list[Path], threads: int) -> float:
    """Images per second of reading and decoding the files in this process."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda path: images.decode(path.read_bytes()).pixels.shape, paths):
            pass
    return len(paths) / (time.perf_counter() - started)


def _on_ray(config: FeedConfig, uri: str, output: Path, settings: ReadSettings | None) -> float:
    """Images per second of a Ray Data chain on a new cluster. Without settings: Ray's `read_images`."""
    cluster.connect()
    try:
        cluster.configure_ray_data()
        job = ScoreConfig(images=uri, checkpoint="none", output=str(output))
        learned = settings is not None and not settings.decode
        resources = size_cluster(job, cluster.nodes(), detectors_decode=learned)
        if settings is None:
            rows = _read_images(uri, config.batch_size, resources)
        else:
            rows = _chain(uri, output, config.batch_size, settings, resources)
        blocks = rows.iter_batches(batch_size=None, batch_format="pyarrow")
        times = np.concatenate([_times(block) for block in blocks])
    finally:
        ray.shutdown()
    return rate_of_all(times, config.count)


def _daft(config: FeedConfig, folder: str) -> float:
    """Images per second of Daft, in a process of another environment."""
    output = run_module("daft_loop", "feed", folder, config.batch_size)
    return rate_of_all(np.array(json.loads(output.splitlines()[-1]), np.int64), config.count)


def _chain(
    uri: str, output: Path, batch_size: int, settings: ReadSettings, resources: Resources
) -> Dataset:
    planned = plan.extend(str(output), select(uri).listed, shard_size=500)
    return score.chain(
        score.make_tasks(planned, range(planned.num_shards), batch_size, resources),
        read_settings=settings,
        detector=DecodingActor,
        detector_settings={"threads": resources.decode_threads},
        attempts=SharedAttempts(),
        resources=resources,
        batch_size=batch_size,
    )


def _read_images(uri: str, batch_size: int, resources: Resources) -> Dataset:
    return ray.data.read_images(uri, mode="RGB", num_cpus=resources.read_cpus).map_batches(
        PixelActor,
        batch_size=batch_size,
        compute=ActorPoolStrategy(size=resources.workers),
        num_cpus=resources.detector_cpus,
    )


def _times(block: pa.Table) -> npt.NDArray[np.int64]:
    times: npt.NDArray[np.int64] = block["scored_at"].to_numpy().astype("int64")
    return times


def _done(count: int) -> pa.Table:
    return pa.table({"scored_at": [datetime.datetime.now(datetime.UTC)] * count}, schema=_DONE)


def _lines(rates: Mapping[str, list[float]]) -> list[str]:
    """Write the table: the median rate of each way, and its share of decoding on all cores."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    most = max(value for name, value in medians.items() if name.startswith("decode"))
    head = f"{'':<22}{'images/s':>10}{'of bare decoding':>18}"
    return [
        head,
        *(f"{name:<22}{value:>10.0f}{value / most:>18.2f}" for name, value in medians.items()),
    ]
