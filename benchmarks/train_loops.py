"""Compare the training step with torchvision's loop, in one process, for `jobs/benchmark.py train`.

torchvision's loop is that of its detection references (engine.py), with its transform and RoIHeads, on the
same batches, proposals, backbone and initial weights, in float32. Ours is measured three times: in bfloat16
if the machine multiplies it (as in `jobs/train.py`), in float32, and in float32 with norms as separate
passes. In all others the norms of the backbone are folded into its convolutions. All loops take a step in
turn; times are wall-clock times. The floor is the minimum time of a step's convolutions and matrix products,
forward and backward, at the peak of the machine.
"""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from benchmarks.roofline import Floor, measure_peak
from fastrcnn.backbones.convolution import FastConv2d
from fastrcnn.config import SolverConfig
from fastrcnn.loss import Objective
from fastrcnn.model import FastRCNN
from fastrcnn.proposals import prepare, propose
from fastrcnn.solver import build_optimizer
from pipeline import storage
from pipeline.ablation.torchvision_heads import TorchvisionHeads
from pipeline.config import TrainConfig
from pipeline.images import decode
from pipeline.training.data import read_data
from pipeline.training.examples import Batch, Example, load_batch
from pipeline.training.initial_weights import initial_model
from pipeline.training.plan import TrainPlan
from pipeline.training.step import StepSettings, train_step

WARM = 3
"""Number of first steps that are not measured."""


def beside_torchvision(flags: TrainConfig, iterations: int) -> tuple[dict[str, list[float]], Floor]:
    """Measure the seconds of each step after the first `WARM`, by training loop, and the floor of ours.

    Ours is the first loop.
    """
    assert flags.batch_size is not None
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
    solver = replace(plan.solver, mixed_precision=True)
    loops = {
        "ours": _our_step(copy.deepcopy(model), solver, iterations, flags.seed),
        "ours, float32": _our_step(copy.deepcopy(model), plan.solver, iterations, flags.seed),
        "the same, norms apart": _our_step(
            _norms_apart(model), plan.solver, iterations, flags.seed
        ),
        "torchvision": torchvision_step(peer, plan.solver),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for step in range(iterations):
        batch = load_batch(examples, step, flags.batch_size, flags.seed, plan.model)
        names = list(loops)
        first = step % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            loops[name](batch)
            seconds[name].append(time.perf_counter() - started)
    floor = Floor(measure_peak(torch.device(device)))
    with floor:
        loops["ours"](batch)
    return {name: times[WARM:] for name, times in seconds.items()}, floor


def _norms_apart(model: FastRCNN) -> FastRCNN:
    """Change the model in place: norms are separate passes over the map, not folded into convolutions."""
    for conv in model.modules():
        if isinstance(conv, FastConv2d):
            for norm in conv.norm:
                norm.folded = False
            conv.norm = ()
    return model


def _our_step(
    model: FastRCNN, solver: SolverConfig, iterations: int, seed: int
) -> Callable[[Batch], float]:
    objective, optimizer = Objective(model), build_optimizer(model, solver)
    settings = StepSettings(solver=solver, num_iterations=iterations + 1, seed=seed)
    steps = itertools.count()

    def step(batch: Batch) -> float:
        return train_step(objective, optimizer, batch, next(steps), settings)["loss"]

    return step


def torchvision_step(peer: TorchvisionHeads, solver: SolverConfig) -> Callable[[Batch], float]:
    """Give a function that takes a step like torchvision's references/detection/engine.py and gives the
    loss."""
    optimizer = build_optimizer(peer, solver)
    device = next(peer.parameters()).device

    def step(batch: Batch) -> float:
        peer.train()
        # Like the ToTensor of its loader, and the .to(device) of its loop.
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


def peer_lines(seconds: Mapping[str, Sequence[float]], floor: Floor, batch_size: int) -> list[str]:
    """Write images per second of each loop and of the floor, and the median over steps of the ratio to
    ours."""
    ours = next(iter(seconds.values()))
    lines = [f"{'training loop':<24}{'images/s':>10}{'of the floor':>14}{'ours is faster by':>19}"]
    for name, times in seconds.items():
        step = statistics.median(times)
        ratio = statistics.median(b / a for a, b in zip(ours, times, strict=True))
        lines.append(
            f"{name:<24}{batch_size / step:>10.2f}{floor.seconds / step:>14.0%}{ratio:>19.2f}"
        )
    gflop = floor.flops / batch_size / 1e9
    return [
        *lines,
        f"{'floor':<24}{batch_size / floor.seconds:>10.2f}   ({gflop:.1f} GFLOP per image)",
    ]
