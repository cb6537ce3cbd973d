"""The training loop of one worker: restore, step, validate, save. Rank 0 logs and writes the outputs.

This module does not know the flags or where the data is: the driver (`pipeline.train`) gives it a `TrainJob`.
A rank's share of a step depends only on (seed, step, rank). So a resumed run, or one with another number of
workers, takes the same steps. A checkpoint is written to this machine's disk and uploaded while training
continues. If the run dies before the upload is complete, it resumes from the checkpoint before.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointUploadMode
from torch import nn

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig, SolverConfig
from fastrcnn.loss import Objective
from fastrcnn.model import FastRCNN
from fastrcnn.solver import build_optimizer, freeze_untrained
from pipeline.runtime.cli import configure_logging
from pipeline.runtime.prefetch import prefetch
from pipeline.training.board import ProgressLines, TrainingBoard
from pipeline.training.examples import Batch, Example, load_batch
from pipeline.training.mlflow_run import MLflowRun
from pipeline.training.state import TrainingProgress, restore_state, save_state
from pipeline.training.step import NonFiniteLossError, StepSettings, model_of, train_step
from pipeline.training.validation import detector_of, draw_validation, upright_only, validate

logger = logging.getLogger(__name__)

STEPS_BETWEEN_CHECKS = 10
"""Steps between two checks for a preemption notice. A check asks an actor and waits for all ranks. At every
step this would slow down a GPU."""
UNMEASURED = {"val_map": -1.0}
"""Metric of a checkpoint without validation. It ranks below all others when Ray chooses the best to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Everything a worker needs. `examples`, `validation` and `weights` are in Ray's object store."""

    model: FastRCNNConfig
    solver: SolverConfig
    classes: tuple[str, ...]
    proposals: ProposalConfig
    num_iterations: int
    validate_every: int
    seed: int
    provenance: dict[str, Any]
    output: str
    """URI of the output. Rank 0 writes TensorBoard files and pictures there."""
    mlflow_uri: str | None
    examples: Any
    """ObjectRef of list[Example]."""
    validation: Any
    """ObjectRef of list[Example]; may be empty."""
    weights: Any
    """ObjectRef of the initial state_dict."""


def train_loop(setup: dict[str, TrainJob]) -> str | None:
    """Train in one worker: the train_loop_per_worker of Ray Train. All ranks take the same number of steps.

    Returns:
        None, or the reason why the run cannot continue. The reason is returned and not raised, because Ray
        restarts a worker that raises, and with the same seed the same step would fail again.
    """
    configure_logging()
    try:
        _train(setup["job"])
    except NonFiniteLossError as error:  # the loss is summed over the ranks, so all of them raise
        return str(error)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """The state of one training worker."""

    job: TrainJob
    settings: StepSettings
    objective: nn.Module
    """An `Objective`; with several workers, DistributedDataParallel around it."""
    optimizer: torch.optim.SGD
    progress: TrainingProgress
    validation: list[Example]
    boards: Sequence[TrainingBoard | MLflowRun]
    """TensorBoard and MLflow writers. Empty on all ranks but 0."""

    @property
    def model(self) -> FastRCNN:
        return model_of(self.objective)


def _train(job: TrainJob) -> None:
    if job.solver.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it
        torch.use_deterministic_algorithms(True)
    context = ray.train.get_context()
    settings = StepSettings(
        solver=job.solver,
        num_iterations=job.num_iterations,
        seed=job.seed,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
    examples: list[Example] = ray.get(job.examples)
    validation: list[Example] = ray.get(job.validation)
    model = FastRCNN(job.model)
    model.load_state_dict(ray.get(job.weights))
    objective = _prepare(model, job.solver)
    optimizer = build_optimizer(model, job.solver)
    progress = restore_state(model, optimizer)
    with ExitStack() as stack:
        boards = list(_boards(job, progress)) if settings.rank == 0 else []
        for board in boards:
            stack.enter_context(board)
        worker = _Worker(
            job=job,
            settings=settings,
            objective=objective,
            optimizer=optimizer,
            progress=progress,
            validation=validation,
            boards=boards,
        )
        _take_steps(worker, partial(_load, examples, job, settings))


def _prepare(model: FastRCNN, solver: SolverConfig) -> nn.Module:
    """Move the model to the worker's device; with several workers, wrap its objective in DDP."""
    # Freeze before DDP is built: DDP waits for a gradient of every parameter that requires one.
    freeze_untrained(model, solver)
    if solver.compile:
        model.backbone.compile(dynamic=True)  # images come in many sizes
    # With device_ids, DDP would copy all inputs to the GPU, and RoIs would be sampled there. The objective
    # copies what the GPU needs.
    no_copies = {"device_ids": None, "output_device": None}
    return ray.train.torch.prepare_model(Objective(model), parallel_strategy_kwargs=no_copies)


def _boards(job: TrainJob, progress: TrainingProgress) -> Iterator[TrainingBoard | MLflowRun]:
    """Make the writers of rank 0: TensorBoard, and MLflow if --mlflow-uri is given."""
    yield TrainingBoard(job.output, progress.iteration)
    if job.mlflow_uri:
        yield MLflowRun(job.mlflow_uri, job.output, job.provenance["flags"])


def _take_steps(worker: _Worker, load: Callable[[int], Batch]) -> None:
    """Take the remaining steps. Validate and save every `validate_every` steps and at the end.

    Args:
        load: gives this rank's batch of a step; called ahead of the steps, in threads.
    """
    job, progress = worker.job, worker.progress
    steps = range(progress.iteration, job.num_iterations)
    lines = ProgressLines(job.num_iterations, job.solver.batch_size)
    notice = PreemptionNotice()
    started = time.monotonic()
    for step, batch in zip(steps, prefetch(load, steps), strict=True):
        waited = time.monotonic() - started
        row = train_step(worker.objective, worker.optimizer, batch, step, worker.settings)
        row |= {"seconds": time.monotonic() - started, "waited": waited}
        progress.iteration = step + 1
        progress.history.append(row)
        if worker.settings.rank == 0:
            lines.step(row)
        for board in worker.boards:
            board.step(row)
        last = progress.iteration == job.num_iterations
        if last or progress.iteration % job.validate_every == 0:
            _save(worker, _validate(worker))
        elif notice.came(progress.iteration):
            _save(worker, {"iteration": progress.iteration, "loss": row["loss"]})
        started = time.monotonic()


def _load(examples: list[Example], job: TrainJob, settings: StepSettings, step: int) -> Batch:
    return load_batch(
        examples,
        step,
        job.solver.batch_size,
        job.seed,
        job.model,
        rank=settings.rank,
        world_size=settings.world_size,
    )


def _validate(worker: _Worker) -> dict[str, Any]:
    """Measure the model on the validation images, split among the ranks. Rank 0 writes metrics and
    pictures."""
    settings, iteration = worker.settings, worker.progress.iteration
    metrics: dict[str, Any] = {"iteration": iteration, "loss": worker.progress.history[-1]["loss"]}
    if not worker.validation:
        return metrics
    classes = worker.job.classes
    detector = detector_of(upright_only(worker.model.eval()))
    validation = validate(
        detector, len(classes), worker.validation, settings.rank, settings.world_size
    )
    metrics |= validation.metrics(classes)
    worker.progress.validations.append(metrics)
    if settings.rank == 0:
        logger.info("iteration %d: validation mAP %.4f", iteration, metrics["val_map"])
        pictures = draw_validation(validation, worker.validation, classes)
        for board in worker.boards:
            board.validated(iteration, metrics, pictures)
    return metrics


def _save(worker: _Worker, metrics: dict[str, Any]) -> None:
    """Write a checkpoint on rank 0 and report on all ranks. The upload runs while training continues."""
    job, progress = worker.job, worker.progress
    checkpoint = None
    for board in worker.boards:
        board.save(progress.iteration)
    if worker.settings.rank == 0:
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))  # Ray removes it after the upload
        provenance = job.provenance | {"iteration": progress.iteration, "metrics": metrics}
        save_checkpoint(
            folder,
            worker.model,
            classes=job.classes,
            proposals=job.proposals,
            training=provenance,
        )
        save_state(folder, worker.model, worker.optimizer, progress)
        checkpoint = ray.train.Checkpoint.from_directory(folder)
    ray.train.report(
        UNMEASURED | metrics,
        checkpoint=checkpoint,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
    )


class PreemptionNotice:
    """Check whether a node of this run will be taken away soon (spot capacity, scale-down, maintenance).

    Then there is time to save one more checkpoint. All ranks ask at the same steps and get the same answer.
    When the node is gone, Ray restarts the run on other nodes from that checkpoint, any number of times.
    """

    def __init__(self) -> None:
        self._nodes: set[str] = set()

    def came(self, iteration: int) -> bool:
        """Return True if there is a notice about nodes that were not in an earlier notice."""
        if iteration % STEPS_BETWEEN_CHECKS:
            return False
        info = ray.train.get_preemption_info()
        new = set(info.preempted_node_ids) - self._nodes if info else set()
        self._nodes |= new
        if new:
            logger.warning(
                "iteration %d: %d nodes will be taken away soon; saving a checkpoint",
                iteration,
                len(new),
            )
        return bool(new)
