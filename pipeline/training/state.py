"""Save and load what a resumed run needs beside the model: the optimizer's state, progress, and the weights
if the model has averaged ones. Nothing is pickled.
"""

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

from fastrcnn.averaging import WeightAverage, load_weights, trained_weights
from fastrcnn.checkpoint import load_checkpoint
from fastrcnn.config import SolverConfig
from fastrcnn.model import FastRCNN
from pipeline.training.validation import RANKED_BY

logger = logging.getLogger(__name__)

MOMENTUM, STATE = "momentum.safetensors", "training_state.json"
WEIGHTS = "unaveraged.safetensors"
"""The trained weights as the last step left them, if the checkpoint's model has their average."""

VELOCITY, STEP = "momentum_buffer", "step"
"""Keys of torch's optimizers: SGD's velocity, and AdamW's number of steps."""


@dataclass(slots=True)
class TrainingProgress:
    """The history of a training, saved with each checkpoint."""

    iteration: int
    """Number of steps taken."""
    history: list[dict[str, float]]
    """One row per step, averaged over all ranks."""
    validations: list[dict[str, Any]]
    """Metrics of each validation."""

    def out_of_patience(self, solver: SolverConfig) -> bool:
        """Return True if each of the last `patience` validations has no better mAP than one before them.

        It depends on the validations alone, which are the same on every rank and after a resume.
        """
        patience, metric = solver.patience, RANKED_BY[solver.best_by]
        if patience is None or len(self.validations) <= patience:
            return False
        maps: list[float] = [metrics[metric] for metrics in self.validations]
        return max(maps[-patience:]) <= max(maps[:-patience])


def save_state(
    folder: Path,
    model: FastRCNN,
    optimizer: torch.optim.Optimizer,
    progress: TrainingProgress,
    average: WeightAverage | None = None,
) -> None:
    """Write the optimizer's state (safetensors, by parameter name) and progress (JSON) beside the model.

    Args:
        model: has the weights of the last step, also where the folder's model has averaged ones.
        average: if given, the weights of `model` are written too.
    """
    save_file(_optimizer_tensors(model, optimizer), folder / MOMENTUM)
    if average is not None:
        weights = {k: v.cpu().contiguous() for k, v in trained_weights(model).items()}
        save_file(weights, folder / WEIGHTS)
    state = {
        "iteration": progress.iteration,
        "history": progress.history,
        "validations": progress.validations,
        "learning_rates": [group["lr"] for group in optimizer.param_groups],
    }
    (folder / STATE).write_text(json.dumps(state))


def _optimizer_tensors(model: FastRCNN, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give the optimizer's tensors by name: `NAME` is SGD's velocity of a parameter, `NAME:exp_avg` one of
    AdamW's averages."""
    return {
        name if key == VELOCITY else f"{name}:{key}": value.cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def restore_state(
    model: FastRCNN, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None
) -> TrainingProgress:
    """Load the run's latest checkpoint, if there is one: model, optimizer, average and progress.

    All of them are changed in place. Without a checkpoint, the progress is empty.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return TrainingProgress(0, [], [])
    with checkpoint.as_directory() as folder:
        progress = load_state(Path(folder), model, optimizer, average)
    logger.info("resumed from the checkpoint of iteration %d", progress.iteration)
    return progress


def load_state(
    folder: Path,
    model: FastRCNN,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None = None,
) -> TrainingProgress:
    """Load what `save_checkpoint` and `save_state` wrote. Changes model, optimizer and average in place."""
    model.load_state_dict(load_checkpoint(folder).model.state_dict())
    if average is not None:
        average.weights = trained_weights(model)
        load_weights(model, load_file(folder / WEIGHTS))
    tensors: dict[str, Tensor] = load_file(folder / MOMENTUM)
    state = json.loads((folder / STATE).read_text())
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, kind = key.partition(":")
        parameter = parameters[name]
        # AdamW counts its steps on the CPU.
        value = value if kind == STEP else value.to(parameter.device)
        optimizer.state[parameter][kind or VELOCITY] = value
    for group, rate in zip(optimizer.param_groups, state["learning_rates"], strict=True):
        group["lr"] = rate  # set_learning_rate rescales the momentum when the rate changes
    return TrainingProgress(state["iteration"], state["history"], state["validations"])
