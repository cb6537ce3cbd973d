"""`jobs/benchmark.py memory`: the memory of a scoring job's driver and workers for buckets of growing size.

The whole of `jobs/score_bucket.py` on a Ray cluster of its own, over a list of keys of which one in a
hundred is a photograph and the others are not there: a row each, at the rate of Ray and of the record
instead of the detector.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks.config import CHECKOUT, MemoryConfig
from benchmarks.results import write_results
from demo import processes
from pipeline import score
from pipeline.config import ScoreConfig
from pipeline.storage import NAMED

_ONE_IN = 100


def run(config: MemoryConfig) -> None:
    """Measure, print a table, and write results.json."""
    config.output.mkdir(parents=True, exist_ok=True)
    results = []
    print(
        f"{'keys':>10}{'rows/s':>10}{'driver MB':>11}{'largest worker MB':>19}{'all workers MB':>16}"
    )
    for keys in config.keys:
        folder = config.output / f"{keys}"
        shutil.rmtree(folder, ignore_errors=True)
        _make_list(folder, config.image.resolve(), keys)
        # A process of its own: what is asked for is its peak.
        command = [sys.executable, "-m", "benchmarks.memory", str(folder), config.checkpoint]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
        found = json.loads(said.splitlines()[-1])
        results.append({"keys": keys, **found})
        print(
            f"{keys:>10}{found['rows_per_second']:>10.0f}{found['driver_mb']:>11.0f}"
            f"{found['largest_worker_mb']:>19.0f}{found['workers_mb']:>16.0f}"
        )
        shutil.rmtree(folder)
    write_results(config, results)


def _make_list(folder: Path, image: Path, keys: int) -> None:
    images = folder / "images"
    images.mkdir(parents=True)
    names = [str(images / f"{number:09d}.jpg") for number in range(keys)]
    for name in names[::_ONE_IN]:
        Path(name).symlink_to(image)
    there = [number % _ONE_IN == 0 for number in range(keys)]
    # Those with an ETag are not looked up; those without are, and are there.
    etags = [None if real else "0-0" for real in there]
    table = pa.table([names, etags, [None] * keys], schema=NAMED)
    pq.write_table(table, folder / "list.parquet")


def measure(folder: str, checkpoint: str) -> dict[str, float]:
    """Score the list; rows a second, and peak memory of each kind of process in MB."""
    summary = score.run(
        ScoreConfig(
            images=f"{folder}/list.parquet", checkpoint=checkpoint, output=f"{folder}/results"
        )
    )
    if not summary.complete:
        raise RuntimeError("not every key has its row")
    workers = [peak_mb(pid) for pid in ray_processes()]
    ray.shutdown()
    return {
        "rows_per_second": summary.scored / summary.seconds,
        "driver_mb": peak_mb(os.getpid()),
        "largest_worker_mb": max(workers),
        "workers_mb": sum(workers),
    }


def ray_processes() -> list[int]:
    """Worker processes of this one's cluster that have run something: Ray gives them its own titles."""
    return [
        pid
        for pid, _ in processes.descendants(os.getpid())
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    ]


def peak_mb(pid: int) -> float:
    """Most memory that a process has had, in MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} says nothing of its memory")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2])))
