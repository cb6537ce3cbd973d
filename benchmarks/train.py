"""Run `jobs/benchmark.py train`: the speed-up with more workers, and the training step compared with
torchvision's.

Workers: the same training with 1, 2 and 4 Ray Train workers of one CPU each and the same global batch, in
float32. The losses must be equal. Images per second should grow with the workers while there are cores for
them.

torchvision: see `benchmarks.train_loops`.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import ray

from benchmarks import CHECKOUT
from benchmarks.config import TrainBenchmarkConfig
from benchmarks.results import write_results
from benchmarks.train_loops import WARM, beside_torchvision, peer_lines
from pipeline import train
from pipeline.runtime import cluster

logger = logging.getLogger(__name__)


def run(config: TrainBenchmarkConfig) -> None:
    """Measure, print two tables and write results.json."""
    runs = {workers: _by_workers(config, workers) for workers in config.workers}
    seconds, floor = beside_torchvision(config.training("unused", 1), config.iterations)
    lines = [
        *scaling_lines(runs, config.batch_size),
        "",
        *peer_lines(seconds, floor, config.batch_size),
    ]
    results = {
        "runs": runs,
        "seconds": seconds,
        "floor_s": floor.seconds,
        "flop_a_step": floor.flops,
        "peak": asdict(floor.peak),
    }
    write_results(config, results)
    print("\n".join(lines))


def _by_workers(config: TrainBenchmarkConfig, workers: int) -> list[dict[str, float]]:
    """Train on a new cluster with one (logical) CPU per worker; give the history."""
    cluster.set_random_token()
    ray.init(
        address="local",
        num_cpus=max(workers, 2),
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        # With several logical CPUs, a single worker would use several threads.
        runtime_env={"env_vars": {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}},
    )
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-train-") as folder:
            train.run(config.training(folder, workers))
            steps: list[dict[str, float]]
            steps = json.loads((Path(folder) / "metrics.json").read_text())["steps"]
            return steps
    finally:
        ray.shutdown()


def scaling_lines(runs: dict[int, list[dict[str, float]]], batch_size: int) -> list[str]:
    """Write one line per number of workers.

    Efficiency is the speed-up divided by the number of workers, or of cores if there are fewer.
    """
    cores = os.cpu_count() or 1
    lines = [
        f"{'workers':<9}{'images/s':>10}{'speed-up':>10}{'efficiency':>12}{'waiting':>9}"
        f"{'last loss':>11}{'differs':>10}   ({cores} cores)"
    ]
    base: list[dict[str, float]] = []
    for workers, steps in runs.items():
        base = base or steps
        speed, first = (batch_size / _median(s, "seconds") for s in (steps, base))
        losses, same = (np.array([row["loss"] for row in s]) for s in (steps, base))
        differs = float(np.max(np.abs(losses - same) / same))
        more = min(workers, cores) / min(next(iter(runs)), cores)
        waiting = sum(row["waited"] for row in steps[WARM:])
        waiting /= sum(row["seconds"] for row in steps[WARM:])
        lines.append(
            f"{workers:<9}{speed:>10.2f}{speed / first:>10.2f}{speed / first / more:>12.0%}"
            f"{waiting:>9.1%}{losses[-1]:>11.4f}{differs:>10.1e}"
        )
    return lines


def _median(steps: Sequence[dict[str, float]], name: str) -> float:
    return statistics.median(row[name] for row in steps[WARM:])
