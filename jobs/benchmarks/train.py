"""`jobs/benchmark.py train`: what more workers give, and our training step beside torchvision's.

Workers: the same run by 1, 2 and 4 Ray Train workers of one CPU each, at the same global batch. The losses
are the same, in float32; images a second should grow with the workers while there are cores for them.

torchvision: `jobs.benchmarks.train_loops`.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray

from fastrcnn.config import LEARNED
from jobs.benchmarks.results import write_results
from jobs.benchmarks.train_loops import WARM, beside_torchvision, peer_lines
from pipeline import cluster, train
from pipeline.config import TrainConfig
from pipeline.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBenchmarkConfig:
    """Flags of `jobs/benchmark.py train`; the defaults are for two cores."""

    data: str
    """Labelled data set, local or any URI."""
    weights: str = "none"
    """Of the backbone, as for `jobs/train.py`; the time does not hang on them."""
    split: str = "train"
    """Whose images are used."""
    backbone: str = "mobilenet_v2"
    """As for `jobs/train.py`."""
    proposals: str = "grid"
    """As for `jobs/train.py`, but not rpn; made before the clock runs."""
    max_proposals: int = 1000
    """Of an image."""
    scale: int = 240
    """Shorter side in the model frame."""
    fc_dim: int = 256
    """Width of fc6 and fc7."""
    rois_per_image: int = 64
    """RoIs sampled from each image of a step."""
    batch_size: int = 4
    """Images a step over all workers."""
    iterations: int = 20
    """Steps of each run."""
    learning_rate: float = 0.005
    """Small enough for any weights: the losses are compared, not looked at."""
    seed: int = 3
    """Of order, flips, samples and initialisation."""
    workers: tuple[int, ...] = (1, 2, 4)
    """Numbers of workers; the first is what the others are held against."""
    limit: int | None = 64
    """Images used."""
    output: Path = CHECKOUT / "benchmark-output" / "train"
    """Local folder for results.json."""

    def __post_init__(self) -> None:
        if self.proposals == LEARNED:
            raise UserError(
                f"--proposals {LEARNED}",
                "torchvision's RoIHeads, the other side, are given their proposals",
                "Give another proposer, or jobs/ablate.py --comparisons faster_rcnn.",
            )

    def training(self, output: str, num_workers: int) -> TrainConfig:
        own = asdict(self)
        for name in ("workers", "output"):
            del own[name]
        return TrainConfig(
            **own,
            output=output,
            num_workers=num_workers,
            validate_every=self.iterations,
            # Else each worker's norms see its own share alone, and gradients are rounded a worker.
            set=("frozen_norm=true", "mixed_precision=false"),
        )


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
    """The history of a run, on a cluster of its own with a CPU a worker, real or not."""
    cluster.ask_for_own_token()
    ray.init(
        address="local",
        num_cpus=max(workers, 2),
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        # Several logical CPUs would let a lone worker use several threads.
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
    """A line a number of workers. Efficiency: speed-up over the workers there are cores for."""
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
