"""Save and load what a resumed run needs beside the model: momentum and progress. Nothing is pickled."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastrcnn.checkpoint import load_checkpoint
from fastrcnn.model import FastRCNN

logger = logging.getLogger(__name__)

MOMENTUM, STATE = "momentum.safetensors", "training_state.json"


@dataclass(slots=True)
class TrainingProgress:
    """The history of a training, saved with each checkpoint."""

    iteration: int
    """Number of steps taken."""
    history: list[dict[str, float]]
    """One row per step, averaged over all ranks."""
    validations: list[dict[str, Any]]
    """Metrics of each validation."""


def save_state(
    folder: Path, model: FastRCNN, optimizer: torch.optim.SGD, progress: TrainingProgress
) -> None:
    """Write momentum (safetensors, by parameter name) and progress (JSON) beside the model."""
    momentum = {
        name: optimizer.state[parameter]["momentum_buffer"].cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }
    save_file(momentum, folder / MOMENTUM)
    state = {
        "iteration": progress.iteration,
        "history": progress.history,
        "validations": progress.validations,
        "learning_rates": [group["lr"] for group in optimizer.param_groups],
    }
    (folder / STATE).write_text(json.dumps(state))


def restore_state(model: FastRCNN, optimizer: torch.optim.SGD) -> TrainingProgress:
    """Load the run's latest checkpoint, if there is one: model, momentum, learning rates and progress.

    Model and optimizer are changed in place. Without a checkpoint, the progress is empty.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return TrainingProgress(0, [], [])
    with checkpoint.as_directory() as folder:
        progress = load_state(Path(folder), model, optimizer)
    logger.info("resumed from the checkpoint of iteration %d", progress.iteration)
    return progress


def load_state(folder: Path, model: FastRCNN, optimizer: torch.optim.SGD) -> TrainingProgress:
    """Load what `save_checkpoint` and `save_state` wrote. Changes model and optimizer in place."""
    model.load_state_dict(load_checkpoint(folder).model.state_dict())
    momentum: dict[str, Tensor] = load_file(folder / MOMENTUM)
    state = json.loads((folder / STATE).read_text())
    for name, parameter in model.named_parameters():
        if name in momentum:
            optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(parameter.device)
    for group, rate in zip(optimizer.param_groups, state["learning_rates"], strict=True):
        group["lr"] = rate  # set_learning_rate rescales the momentum when the rate changes
    return TrainingProgress(state["iteration"], state["history"], state["validations"])
