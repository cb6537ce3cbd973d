"""`jobs/benchmark.py train`: what more workers give, and our training step beside torchvision's.

Workers: the same run by 1, 2 and 4 Ray Train workers of one CPU each, at the same global batch. The losses
are the same; images a second should grow with the workers while there are cores for them.

torchvision: the steps of its detection references (engine.py) with its own transform and RoIHeads, on the
same batches, proposals, backbone and initial weights, in one process, ours and theirs in turn, by the clock.
The floor is what a step's convolutions and matrix products, forth and back, take at this machine's peak.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray
import torch

from fastrcnn.config import LEARNED
from fastrcnn.proposals import prepare, propose
from fastrcnn.solver import SolverConfig, build_optimizer
from jobs.benchmark_roofline import Floor, measure_peak
from pipeline import cluster, storage, train
from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.examples import Batch, Example, load_batch
from pipeline.images import decode
from pipeline.initial_weights import initial_model
from pipeline.torchvision_heads import TorchvisionHeads
from pipeline.train_data import read_data
from pipeline.train_plan import TrainPlan
from pipeline.train_step import train_step

CHECKOUT = Path(__file__).resolve().parents[1]
WARM = 3
"""First steps that are not timed."""

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
            set=("frozen_norm=true",),  # else each worker's norms see its own share alone
        )


def run(config: TrainBenchmarkConfig) -> None:
    """Measure, print two tables and write results.json."""
    runs = {workers: _by_workers(config, workers) for workers in config.workers}
    ours, theirs, floor = beside_torchvision(config)
    lines = [
        *scaling_lines(runs, config.batch_size),
        "",
        *peer_lines(ours, theirs, floor, config.batch_size),
    ]
    config.output.mkdir(parents=True, exist_ok=True)
    results = {
        "runs": runs,
        "ours_s": ours,
        "torchvision_s": theirs,
        "floor_s": floor.seconds,
        "flop_a_step": floor.flops,
        "peak": asdict(floor.peak),
        "cores": os.cpu_count(),
    }
    (config.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
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


def peer_lines(
    ours: Sequence[float], theirs: Sequence[float], floor: Floor, batch_size: int
) -> list[str]:
    """Images a second of both and of the floor, and the median of the ratios step by step."""
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    lines = [f"{'training loop':<24}{'images/s':>10}{'of the floor':>14}"]
    for name, seconds in (("ours", ours), ("torchvision", theirs)):
        step = statistics.median(seconds)
        lines.append(f"{name:<24}{batch_size / step:>10.2f}{floor.seconds / step:>14.0%}")
    gflop = floor.flops / batch_size / 1e9
    lines.append(f"{'floor':<24}{batch_size / floor.seconds:>10.2f}   ({gflop:.1f} GFLOP an image)")
    return [*lines, f"ours is {ratio:.2f} times as fast, step by step"]


def _median(steps: Sequence[dict[str, float]], name: str) -> float:
    return statistics.median(row[name] for row in steps[WARM:])


def beside_torchvision(config: TrainBenchmarkConfig) -> tuple[list[float], list[float], Floor]:
    """Seconds of each step after the first ones, of our loop and of torchvision's; the floor of ours."""
    flags = config.training("unused", 1)
    training, _ = read_data(flags)
    plan = TrainPlan.of(flags, training.classes).fitted(training.images)
    prepare(plan.proposals)
    examples = []
    for image in training.images:
        pixels = decode(storage.read_bytes(image.image_uri)).pixels
        examples.append(Example(image, propose(pixels, plan.proposals)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = initial_model(plan.model, flags.weights, flags.seed, training.classes).to(device)
    peer = TorchvisionHeads(copy.deepcopy(model)).to(device)
    optimizer = build_optimizer(model, plan.solver)
    peer_step = torchvision_step(peer, plan.solver)
    seconds: tuple[list[float], list[float]] = ([], [])
    for step in range(config.iterations):
        batch = load_batch(examples, step, config.batch_size, config.seed)
        for name in (0, 1) if step % 2 else (1, 0):
            started = time.perf_counter()
            if name:
                peer_step(batch)
            else:
                numbers = {"step": step, "num_iterations": config.iterations, "seed": config.seed}
                train_step(model, model, optimizer, batch, plan.solver, **numbers)
            seconds[name].append(time.perf_counter() - started)
    floor = Floor(measure_peak(torch.device(device)))
    with floor:
        numbers = {"step": 0, "num_iterations": config.iterations, "seed": config.seed}
        train_step(model, model, optimizer, batch, plan.solver, **numbers)
    return seconds[0][WARM:], seconds[1][WARM:], floor


def torchvision_step(peer: TorchvisionHeads, solver: SolverConfig) -> Callable[[Batch], float]:
    """The steps of torchvision's references/detection/engine.py, on our batches; each gives the loss."""
    optimizer = build_optimizer(peer, solver)
    device = next(peer.parameters()).device

    def step(batch: Batch) -> float:
        peer.train()
        # The loader's ToTensor, and .to(device) of every image and target.
        images = [image.permute(2, 0, 1).to(device).float() / 255 for image in batch.images]
        targets = [
            {"boxes": t.gt_boxes.to(device), "labels": t.gt_labels.to(device)}
            for t in batch.targets
        ]
        _, losses = peer(images, [t.proposals.to(device) for t in batch.targets], targets)
        total = sum(losses.values())
        value = float(total.item())
        if not math.isfinite(value):
            raise ArithmeticError(f"torchvision's loss is {value}")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return value

    return step
