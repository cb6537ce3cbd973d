"""The training loop of one worker: restore, step, validate, save. Rank 0 logs and writes the outputs.

This module does not know the flags or where the data is: the driver (`pipeline.train`) gives it a `TrainJob`.
A rank's share of a step depends only on (seed, step, rank). So a resumed run, or one with another number of
workers, takes the same steps. A checkpoint is written to this machine's disk and uploaded while training
continues. If the run dies before the upload is complete, it resumes from the checkpoint before.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial

import ray
import ray.train
import ray.train.torch
import torch
from torch import nn

from fastrcnn.averaging import WeightAverage
from fastrcnn.config import SolverConfig
from fastrcnn.loss import Objective
from fastrcnn.model import FastRCNN
from fastrcnn.solver import build_optimizer, freeze_untrained
from pipeline.runtime.cli import configure_logging
from pipeline.runtime.prefetch import prefetch
from pipeline.storage.archives.listed import remember
from pipeline.training.board import Board, Boards, ProgressLines, TrainingBoard
from pipeline.training.examples import Batch, Example, load_batch
from pipeline.training.job import TrainJob
from pipeline.training.mlflow_run import MLflowRun
from pipeline.training.order import ImageOrder, image_order
from pipeline.training.preemption import PreemptionNotice
from pipeline.training.state import TrainingProgress, restore_state
from pipeline.training.step import NonFiniteLossError, StepSettings, model_of, train_step
from pipeline.training.time_budget import (
    TRIAL_IMAGES,
    Pace,
    measure_length,
    trial,
    trial_settings,
)
from pipeline.training.validation import detector_of, single_view, validate
from pipeline.training.worker import Worker, save_unvalidated, validate_and_save

logger = logging.getLogger(__name__)


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


def _train(job: TrainJob) -> None:
    if job.solver.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it
        torch.use_deterministic_algorithms(True)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    examples: list[Example] = ray.get(job.examples)
    validation: list[Example] = ray.get(job.validation)
    remember(ray.get(job.listings))
    model = FastRCNN(job.model)
    weights = ray.get(job.weights)
    model.load_state_dict(weights)
    objective = _prepare(model, job.solver)
    if job.budget is not None:
        measure = partial(_trial, job, objective, examples, validation, rank, world_size)
        every = job.given_validate_every
        length = measure_length(job.budget, job.output, every, measure, rank, world_size)
        job = job.with_length(length)
        model.load_state_dict(weights)  # the trial changed them
    settings = StepSettings(
        solver=job.solver,
        num_iterations=job.num_iterations,
        seed=job.seed,
        rank=rank,
        world_size=world_size,
    )
    optimizer = build_optimizer(model, job.solver)
    average = None if job.solver.ema_decay is None else WeightAverage(model, job.solver.ema_decay)
    progress = restore_state(model, optimizer, average)
    with Boards(_boards(job, progress) if settings.rank == 0 else {}) as boards:
        worker = Worker(
            job=job,
            settings=settings,
            objective=objective,
            optimizer=optimizer,
            average=average,
            progress=progress,
            validation=validation,
            boards=boards,
        )
        order = image_order(examples, job.solver.repeat_threshold, job.seed)
        _take_steps(worker, partial(_load, examples, job, settings, order))


def _trial(
    job: TrainJob,
    objective: nn.Module,
    examples: list[Example],
    validation: list[Example],
    rank: int,
    world_size: int,
) -> Pace:
    """Measure the pace of this worker for --minutes. Changes the weights."""
    assert job.budget is not None
    model = model_of(objective)
    settings = trial_settings(job.solver, job.seed, rank, world_size)
    num_final = job.budget.num_final
    # Without validation images, the calibration detects on other images of the same kind.
    some = (validation or (examples if num_final else []))[: TRIAL_IMAGES * world_size]

    def detect_some() -> int:
        if some:
            detector = detector_of(single_view(model.eval()), job.proposals.max_boxes)
            validate(detector, len(job.classes), some, rank, world_size, job.rules)
        return len(some)

    optimizer = build_optimizer(model, job.solver)
    order = image_order(examples, job.solver.repeat_threshold, job.seed)
    load = partial(_load, examples, job, settings, order)
    return trial(objective, optimizer, load, settings, detect_some, len(validation), num_final)


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


def _boards(job: TrainJob, progress: TrainingProgress) -> dict[str, Callable[[], Board]]:
    """Give the boards of rank 0: TensorBoard, and MLflow if --mlflow-uri is given."""
    boards: dict[str, Callable[[], Board]] = {
        "TensorBoard": partial(TrainingBoard, job.output, progress.iteration)
    }
    if job.mlflow is not None:
        boards["MLflow"] = partial(MLflowRun, job.mlflow, job.output, job.provenance["flags"])
    return boards


def _take_steps(worker: Worker, load: Callable[[int], Batch]) -> None:
    """Take the remaining steps. Validate and save every `validate_every` steps and at the end.

    Args:
        load: gives this rank's batch of a step; called ahead of the steps, in threads.
    """
    job, progress = worker.job, worker.progress
    steps = range(progress.iteration, job.num_iterations)
    lines = ProgressLines(job.num_iterations, job.solver.batch_size, job.validate_every)
    notice = PreemptionNotice()
    if progress.out_of_patience(job.solver):
        return  # the run stopped before it was resumed
    started = time.monotonic()
    for step, batch in zip(steps, prefetch(load, steps), strict=True):
        waited = time.monotonic() - started
        row = train_step(worker.objective, worker.optimizer, batch, step, worker.settings)
        if worker.average is not None:
            worker.average.update(worker.model, step)
        row |= {"seconds": time.monotonic() - started, "waited": waited}
        progress.iteration = step + 1
        progress.history.append(row)
        if worker.settings.rank == 0:
            lines.step(row)
        worker.boards.step(row)
        last, stopped = progress.iteration == job.num_iterations, time.monotonic()
        if last or progress.iteration % job.validate_every == 0:
            validate_and_save(worker)
            lines.validated(time.monotonic() - stopped)
            if progress.out_of_patience(job.solver):
                _log_stop(worker)
                break
        elif notice.arrived(progress.iteration):
            save_unvalidated(worker)
        started = time.monotonic()


def _log_stop(worker: Worker) -> None:
    """Say that the training stops before its last step, and what that means."""
    if worker.settings.rank == 0:
        row = worker.progress.history[-1]
        logger.info(
            "stopped at iteration %d of %d: %d validations without a better mAP (--patience). The learning"
            " rate was still %.2g.",
            worker.progress.iteration,
            worker.job.num_iterations,
            worker.job.solver.patience,
            row["learning_rate"],
        )


def _load(
    examples: list[Example], job: TrainJob, settings: StepSettings, order: ImageOrder, step: int
) -> Batch:
    return load_batch(
        examples,
        step,
        job.solver.batch_size,
        job.seed,
        job.model,
        rank=settings.rank,
        world_size=settings.world_size,
        rules=job.rules,
        order=order,
        max_proposals=job.proposals.max_boxes,
    )
