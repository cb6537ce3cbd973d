"""Trains torchvision's Faster R-CNN for a given time, for `jobs/benchmark.py first-training`.

Its anchors, sampling, losses and solver are torchvision's (`pipeline.ablation.torchvision_heads`). Backbone,
initial weights, training images, scale, width of the head and RoIs an image are those of the hand-picked
flags. All of the time goes to steps: it has no validation, and no calibration of its scores.
"""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.detector_quality import TrainedDetector
from fastrcnn.solver import freeze_untrained
from pipeline.ablation.torchvision_heads import RECIPE, TorchvisionHeads
from pipeline.ablation.trial import train_network
from pipeline.annotations import LabelledImages
from pipeline.config import TrainConfig
from pipeline.training.data import read_data
from pipeline.training.examples import Example
from pipeline.training.initial_weights import initial_model
from pipeline.training.plan import TrainPlan

logger = logging.getLogger(__name__)

WEIGHTS = "torchvision.pth"
"""The trained weights, in the folder of the trial."""
TRIAL_STEPS = 10
"""Steps that are timed before the training, and thrown away."""
NO_BOXES = np.zeros((0, 4), np.float32)


def trained_detector(
    flags: TrainConfig, folder: Path, minutes: float | None
) -> tuple[TrainedDetector, LabelledImages]:
    """Train, or load the weights of an earlier call.

    Args:
        flags: their solver numbers are replaced by torchvision's.
        folder: gets the weights.
        minutes: time from this call to the last step, instead of `flags.iterations`.

    Returns:
        The detector, and the validation images.
    """
    began = time.monotonic()
    flags = replace(flags, learning_rate=None, set=RECIPE)
    training, validation = read_data(flags)
    assert validation is not None  # --val-fraction is given where no split is for validation
    plan = TrainPlan.of(flags, training.classes).fitted(training.images)
    model = initial_model(plan.model, flags.weights, flags.seed, training.classes)
    freeze_untrained(model, plan.solver)
    network = TorchvisionHeads(model)
    stored = folder / WEIGHTS
    if stored.exists():
        network.load_state_dict(torch.load(stored, weights_only=True))
    else:
        examples = [Example(image, NO_BOXES) for image in training.images]
        if minutes is not None:
            trial = train_network(
                copy.deepcopy(network), _with_length(plan, TRIAL_STEPS), flags.seed, examples
            )
            left = 60 * minutes - (time.monotonic() - began)
            plan = _with_length(plan, max(int(left / trial["step_seconds"]), 1))
        result = train_network(network, plan, flags.seed, examples)
        logger.info("torchvision's Faster R-CNN: %s", result)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), stored)
    detector = TrainedDetector(detect=network.detect, classes=tuple(training.classes))
    return detector, validation


def _with_length(plan: TrainPlan, steps: int) -> TrainPlan:
    """Give the plan with this number of steps."""
    return replace(plan, solver=replace(plan.solver, iterations=steps, epochs=None))
