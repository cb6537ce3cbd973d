"""One training worker: its state, and what it does after some of its steps: validate, save, show."""

from __future__ import annotations

import logging
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import CheckpointUploadMode
from torch import nn

from fastrcnn.averaging import WeightAverage
from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.model import FastRCNN
from pipeline.training.board import Boards
from pipeline.training.coverage import log_learned_coverage
from pipeline.training.examples import Example
from pipeline.training.job import TrainJob
from pipeline.training.state import TrainingProgress, save_state
from pipeline.training.step import StepSettings, model_of
from pipeline.training.validation import (
    RANKED_BY,
    Validation,
    detector_of,
    draw_validation,
    single_view,
    validate,
)

logger = logging.getLogger(__name__)

UNMEASURED = dict.fromkeys(RANKED_BY.values(), -1.0)
"""Metrics of a checkpoint without validation. It ranks below all others when Ray chooses the best to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The state of one training worker."""

    job: TrainJob
    settings: StepSettings
    objective: nn.Module
    """An `Objective`; with several workers, DistributedDataParallel around it."""
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    """The average of the weights, which is validated and exported. None without `ema_decay`."""
    progress: TrainingProgress
    validation: list[Example]
    boards: Boards
    """TensorBoard and MLflow. Without effect on all ranks but 0."""

    @property
    def model(self) -> FastRCNN:
        return model_of(self.objective)

    def averaged(self) -> AbstractContextManager[None]:
        """Let the model have the averaged weights inside a `with` block, if there is an average."""
        return nullcontext() if self.average is None else self.average.applied(self.model)


def validate_and_save(worker: Worker) -> None:
    """Measure the model on the validation images, write a checkpoint, and show both on the boards."""
    with worker.averaged():
        metrics, validation = _validate(worker)
    _save(worker, metrics)
    iteration = worker.progress.iteration
    if validation is not None:
        job = worker.job
        draw = partial(draw_validation, validation, worker.validation, job.classes, rules=job.rules)
        worker.boards.add_validation(iteration, metrics, draw)
    worker.boards.save(iteration)


def save_unvalidated(worker: Worker) -> None:
    """Write a checkpoint at once, without a validation: the node is about to be taken away."""
    loss = worker.progress.history[-1]["loss"]
    _save(worker, {"iteration": worker.progress.iteration, "loss": loss})
    worker.boards.save(worker.progress.iteration)


def _validate(worker: Worker) -> tuple[dict[str, Any], Validation | None]:
    """Measure the model on the validation images, split among the ranks.

    Returns:
        The metrics of the checkpoint, and the validation; None if there are no validation images.
    """
    settings, iteration = worker.settings, worker.progress.iteration
    metrics: dict[str, Any] = {"iteration": iteration, "loss": worker.progress.history[-1]["loss"]}
    if not worker.validation:
        return metrics, None
    classes = worker.job.classes
    model = single_view(worker.model.eval())
    if settings.rank == 0 and model.rpn is not None and not worker.progress.validations:
        log_learned_coverage(model, worker.validation, worker.job.rules)
    detector = detector_of(model, worker.job.proposals.max_boxes)
    validation = validate(
        detector,
        len(classes),
        worker.validation,
        settings.rank,
        settings.world_size,
        worker.job.rules,
    )
    metrics |= validation.metrics(classes)
    worker.progress.validations.append(metrics)
    if settings.rank == 0:
        logger.info(
            "iteration %d: validation mAP %.4f (VOC07), %.4f (IoU .5 to .95)",
            iteration,
            *(metrics[name] for name in RANKED_BY.values()),
        )
    return metrics, validation


def _save(worker: Worker, metrics: dict[str, Any]) -> None:
    """Write a checkpoint on rank 0 and report on all ranks. The upload runs while training continues."""
    job, progress = worker.job, worker.progress
    checkpoint = None
    if worker.settings.rank == 0:
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))  # Ray removes it after the upload
        provenance = job.provenance | {"iteration": progress.iteration, "metrics": metrics}
        with worker.averaged():
            save_checkpoint(
                folder,
                worker.model,
                classes=job.classes,
                proposals=job.proposals,
                training=provenance,
                preprocessing=job.rules.described(),
            )
        save_state(folder, worker.model, worker.optimizer, progress, worker.average)
        checkpoint = ray.train.Checkpoint.from_directory(folder)
    ray.train.report(
        UNMEASURED | metrics,
        checkpoint=checkpoint,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
    )
