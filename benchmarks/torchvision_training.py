"""Trains torchvision's Faster R-CNN for a given time, for `jobs/benchmark.py first-training`.

Its anchors, sampling, losses and solver are torchvision's (`pipeline.ablation.torchvision_heads`), and its
numbers are float32. Backbone, initial weights, training images, scale, width of the head and RoIs an image
are those of the hand-picked flags. All of the time goes to steps: there are no validations, and its scores
are not calibrated.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.detector_quality import TrainedDetector, best_f1_points
from fastrcnn.solver import freeze_untrained
from pipeline import storage
from pipeline.ablation.torchvision_heads import RECIPE, TorchvisionHeads
from pipeline.ablation.trial import train_network
from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.annotations.sizes import compare_sizes
from pipeline.config import TrainConfig
from pipeline.images import decode
from pipeline.training.data import read_data
from pipeline.training.examples import Example
from pipeline.training.initial_weights import initial_model
from pipeline.training.plan import TrainPlan

logger = logging.getLogger(__name__)

WEIGHTS, TRAINED = "torchvision.pth", "torchvision.json"
"""The trained weights, in the folder of the trial; and steps and seconds of the training, written last."""
WARM_STEPS, TIMED_STEPS = 2, 8
"""Steps before the training, which are thrown away."""
NO_BOXES = np.zeros((0, 4), np.float32)


def train_torchvision(
    flags: TrainConfig, folder: Path, minutes: float | None
) -> tuple[TrainedDetector, LabelledImages, dict[str, Any]]:
    """Train, or load the weights of an earlier call.

    Args:
        flags: their solver numbers are replaced by torchvision's.
        folder: gets the weights.
        minutes: time from this call to the last step, instead of `flags.iterations`.

    Returns:
        The detector with the scores of best F1 on the validation images, these images, and `steps` and
        `train_seconds` of the training.
    """
    began = time.monotonic()
    flags = replace(flags, learning_rate=None, set=RECIPE)
    training, validation = read_data(flags)
    assert validation is not None  # --val-fraction is given where no split is for validation
    plan = TrainPlan.of(flags, training.classes).fitted(training.images)
    model = initial_model(plan.model, flags.weights, flags.seed, training.classes)
    freeze_untrained(model, plan.solver)
    network = TorchvisionHeads(model)
    if not (folder / TRAINED).exists():
        examples = [Example(image, NO_BOXES) for image in _upright(training.images)]
        if minutes is not None:
            left = 60 * minutes - (time.monotonic() - began)
            plan = _with_length(plan, _fitting_steps(network, plan, flags.seed, examples, left))
        started = time.monotonic()
        result = train_network(network, plan, flags.seed, examples)
        told = {"steps": result["iterations"], "train_seconds": time.monotonic() - started}
        logger.info("torchvision's Faster R-CNN: %s", told)
        torch.save(network.state_dict(), folder / f"{WEIGHTS}.new")
        os.replace(folder / f"{WEIGHTS}.new", folder / WEIGHTS)
        (folder / TRAINED).write_text(json.dumps(told))
    network.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    detector = TrainedDetector(detect=network.detect, classes=tuple(training.classes))
    detector = replace(detector, operating_points=best_f1_points(detector, validation))
    return detector, validation, json.loads((folder / TRAINED).read_text())


def _upright(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Turn the boxes as EXIF turns the pixels."""
    sizes = {}
    for image in images:
        pixels = decode(storage.read_bytes(image.image_uri)).pixels
        sizes[image.image_uri] = (int(pixels.shape[0]), int(pixels.shape[1]))
    upright = compare_sizes(images, sizes, "skip", quiet=True).images
    return [upright[image.image_uri] for image in images]


def _fitting_steps(
    network: TorchvisionHeads, plan: TrainPlan, seed: int, examples: Sequence[Example], left: float
) -> int:
    """Count the steps that fit into `left` seconds, by the time of some on a copy, with reading of images."""
    began = time.monotonic()
    trial = copy.deepcopy(network)
    train_network(trial, _with_length(plan, WARM_STEPS), seed, examples)
    warm = time.monotonic()
    train_network(trial, _with_length(plan, TIMED_STEPS), seed, examples)
    end = time.monotonic()
    return fitting_steps(left - (end - began), (end - warm) / TIMED_STEPS)


def fitting_steps(left: float, step_seconds: float) -> int:
    """Count the steps of `step_seconds` that fit into `left` seconds, at least one."""
    return max(int(left / step_seconds), 1)


def _with_length(plan: TrainPlan, steps: int) -> TrainPlan:
    """Give the plan with this number of steps."""
    return replace(plan, solver=replace(plan.solver, iterations=steps, epochs=None))
