"""Run `jobs/benchmark.py detector`: images per second of `detect`, compared with torchvision and the floor.

All get the same decoded images and the same proposals, in memory, in batches, in turn:

    ours                  `fastrcnn.detection.detect`, with the model as the scoring job uses it
    (`scoring_form`) ... float32           the same in float32 instead of bfloat16
    ... all proposals     ours without `proposal_nms`: as many RoIs as torchvision
    ... one at a time     ours with one image per call
    torchvision           its transform and its RoIHeads, on the same backbone, with the same weights

The floor is the minimum time of all convolutions and matrix products at the measured peak of this machine, in
bfloat16 if `ours` uses it.
"""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.config import DetectorBenchmarkConfig
from benchmarks.images import photographs
from benchmarks.profile import share_line, shares
from benchmarks.results import write_results
from benchmarks.roofline import Floor, Peak, measure_peak
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.detection import Detections, detect
from fastrcnn.model import FastRCNN, with_config
from fastrcnn.precision import multiplies_bfloat16
from fastrcnn.proposals import propose
from fastrcnn.scoring_form import scoring_form, to_bfloat16
from pipeline.ablation.torchvision_heads import TorchvisionHeads
from pipeline.images import decode
from pipeline.storage.checkpoints import load
from pipeline.training.initial_weights import initial_model

_CLASSES = ("one", "two", "three")

logger = logging.getLogger(__name__)

Batch = tuple[list[npt.NDArray[np.uint8]], list[npt.NDArray[np.float32]]]
Scorer = Callable[[Batch], Sequence[Any]]


class Measured(NamedTuple):
    """The speed of one detector."""

    images_per_second: float
    beside_ours: float
    """Its time divided by the time of `ours`: median over batches."""


def run(config: DetectorBenchmarkConfig) -> None:
    """Measure, print one table per number of proposals, and write results.json."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _model(config).to(device).eval()
    peak = measure_peak(device)
    scorers = _scorers(model)
    tables = {}
    for most in config.max_proposals:
        batches = _batches(config, most)
        floor = _floor(model, batches[0], peak)
        measured = measure(scorers, batches, config.rounds, device)
        tables[most] = {
            "floor_images_per_second": config.batch_size / floor.seconds,
            "gflop_an_image": floor.flops / config.batch_size / 1e9,
            "images_per_second": {name: m.images_per_second for name, m in measured.items()},
            "beside_ours": {name: m.beside_ours for name, m in measured.items()},
            "shares": shares(partial(_each, scorers["ours"], batches), device),
        }
        print("\n".join(table(tables[most], most)))
    write_results(config, {"tables": tables, "peak": asdict(peak)})


def table(numbers: dict[str, Any], most: int) -> list[str]:
    """Write the lines of one table."""
    speeds, floor = numbers["images_per_second"], numbers["floor_images_per_second"]
    lines = [
        f"{f'{most} proposals':<26}{'images/s':>10}{'of the floor':>14}{'ours is faster by':>19}"
    ]
    for name, speed in speeds.items():
        beside = numbers["beside_ours"][name]
        lines.append(f"{name:<26}{speed:>10.2f}{speed / floor:>14.0%}{beside:>19.2f}")
    gflop = numbers["gflop_an_image"]
    return [
        *lines,
        f"{'floor':<26}{floor:>10.2f}   ({gflop:.1f} GFLOP per image)",
        f"ours: {share_line(numbers['shares'])}",
    ]


def _each(score: Scorer, batches: Sequence[Batch]) -> None:
    for batch in batches:
        score(batch)


def _model(config: DetectorBenchmarkConfig) -> FastRCNN:
    if config.checkpoint is not None:
        return load(config.checkpoint).model
    numbers = FastRCNNConfig.modern(
        len(_CLASSES), backbone=config.backbone, scale=config.scale, score_threshold=0.9
    )
    return initial_model(numbers, "none", 0, _CLASSES)


def _batches(config: DetectorBenchmarkConfig, most: int) -> list[Batch]:
    paths = photographs(config.images, config.count)
    proposals = ProposalConfig(name=config.proposals, max_boxes=most)
    batches = []
    for first in range(0, len(paths), config.batch_size):
        some = paths[first : first + config.batch_size]
        pixels = [decode(path.read_bytes()).pixels for path in some]
        batches.append((pixels, [propose(p, proposals) for p in pixels]))
    return batches


def _scorers(plain: FastRCNN) -> dict[str, Scorer]:
    model = scoring_form(copy.deepcopy(plain))
    single = scoring_form(copy.deepcopy(plain), bfloat16=False)
    every = with_config(model, proposal_nms=None)

    def alone(batch: Batch) -> list[Detections]:
        return [detect(model, [p], [b])[0] for p, b in zip(*batch, strict=True)]

    return {
        "ours": lambda batch: detect(model, *batch),
        "ours, float32": lambda batch: detect(single, *batch),
        "ours, all proposals": lambda batch: detect(every, *batch),
        "ours, one at a time": alone,
        "torchvision": _torchvision(plain),
    }


def _torchvision(model: FastRCNN) -> Scorer:
    device = model.head.delta_mean.device
    peer = TorchvisionHeads(model).to(device).eval()

    @torch.inference_mode()
    def score(batch: Batch) -> Sequence[Any]:
        pixels, boxes = batch
        images = [torch.tensor(p).permute(2, 0, 1).to(device).float() / 255 for p in pixels]
        detections: Sequence[Any]
        detections, _ = peer(images, [torch.tensor(b).to(device) for b in boxes])
        return detections

    return score


def _floor(model: FastRCNN, batch: Batch, peak: Peak) -> Floor:
    """Measure the floor of a full batch, with the RoIs that `ours` scores.

    The model is a copy whose matrix products torch can count.
    """
    model = copy.deepcopy(model)
    if multiplies_bfloat16(model.head.delta_mean.device):
        to_bfloat16(model)
    floor = Floor(peak)
    with floor:
        detect(model, *batch)
    return floor


def measure(
    scorers: dict[str, Scorer], batches: Sequence[Batch], rounds: int, device: torch.device
) -> dict[str, Measured]:
    """Measure all detectors on every batch, in turn, in another order each time.

    The first detector is the base of `beside_ours`.
    """
    names = list(scorers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        scorers[name](batches[0])  # not measured: torch's first call makes plans and buffers
    for turn in range(rounds * len(batches)):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            scorers[name](batches[turn % len(batches)])
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    images = rounds * sum(len(pixels) for pixels, _ in batches)
    return {
        name: Measured(
            images / sum(times),
            statistics.median(b / a for a, b in zip(seconds[names[0]], times, strict=True)),
        )
        for name, times in seconds.items()
    }
