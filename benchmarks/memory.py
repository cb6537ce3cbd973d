"""Run `jobs/benchmark.py memory`: memory of driver and workers of a scoring job, for lists of growing size.

Runs `jobs/score_bucket.py` completely, on a separate Ray cluster. One key in a hundred is a photograph; the
other keys are empty. (Missing ones would stop the job: so many are the store's fault.) Every key gets a
row, so the rate is limited by Ray and the record, not by the detector.
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

from benchmarks import CHECKOUT
from benchmarks.config import MemoryConfig
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
        make_list(folder, config.image.resolve(), keys)
        # Another process, because its peak memory is measured.
        command = [sys.executable, "-m", "benchmarks.memory", str(folder), config.checkpoint]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
        measured = json.loads(output.splitlines()[-1])
        results.append({"keys": keys, **measured})
        print(
            f"{keys:>10}{measured['rows_per_second']:>10.0f}{measured['driver_mb']:>11.0f}"
            f"{measured['largest_worker_mb']:>19.0f}{measured['workers_mb']:>16.0f}"
        )
        shutil.rmtree(folder)
    write_results(config, results)


def make_list(folder: Path, image: Path, keys: int) -> None:
    """Write a list of so many keys. One in a hundred is the image; the others are empty files."""
    images = folder / "images"
    images.mkdir(parents=True)
    empty = folder / "empty"
    empty.touch()
    names = [images / f"{number:09d}.jpg" for number in range(keys)]
    for number, name in enumerate(names):
        name.symlink_to(empty if number % _ONE_IN else image)
    unknown = [None] * keys
    pq.write_table(
        pa.table([[str(name) for name in names], unknown, unknown], schema=NAMED),
        folder / "list.parquet",
    )


def measure(folder: str, checkpoint: str) -> dict[str, float]:
    """Score the list; give rows per second, and the peak memory of each kind of process in MB."""
    summary = score.run(
        ScoreConfig(
            images=f"{folder}/list.parquet", checkpoint=checkpoint, output=f"{folder}/results"
        )
    )
    if not summary.complete:
        raise RuntimeError("the job is not complete: some keys have no row")
    workers = [peak_mb(pid) for pid in ray_processes()]
    ray.shutdown()
    return {
        "rows_per_second": summary.scored / summary.seconds,
        "driver_mb": peak_mb(os.getpid()),
        "largest_worker_mb": max(workers),
        "workers_mb": sum(workers),
    }


def ray_processes() -> list[int]:
    """Give the ids of Ray's worker processes below this process that have run a task: Ray renames them."""
    return [
        pid
        for pid, _ in processes.descendants(os.getpid())
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    ]


def peak_mb(pid: int) -> float:
    """Give the peak memory of a process in MB (Linux only)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no line VmHWM")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2])))
