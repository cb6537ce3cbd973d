"""What each training worker does: restore, step, validate, save; rank 0 reports.

Nothing here knows where data lies or what the flags were: the driver (`pipeline.train`) hands over a
`TrainJob`. A rank's share of a step depends only on (seed, step, rank), so a run that is resumed, or has
another number of workers, takes the same steps. A checkpoint is written to this machine's disk, and goes to
the output while training goes on; what dies before it has arrived continues from the one before.
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
from typing import Any, NamedTuple

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointUploadMode
from torch import nn

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig, SolverConfig
from fastrcnn.model import FastRCNN
from fastrcnn.solver import build_optimizer, freeze_untrained
from pipeline.cli import configure_logging
from pipeline.prefetch import prefetch
from pipeline.progress_lines import ProgressLines
from pipeline.training.board import TrainingBoard
from pipeline.training.examples import Batch, Example, load_batch
from pipeline.training.mlflow_run import MLflowRun
from pipeline.training.preemption import PreemptionNotice
from pipeline.training.state import Progress, restore_state, save_state
from pipeline.training.step import NonFiniteLossError, train_step
from pipeline.training.validation import detector_of, looking_once, validate
from pipeline.training.validation_pictures import draw_validation

logger = logging.getLogger(__name__)

UNMEASURED = {"val_map": -1.0}
"""Of a checkpoint that was not validated: worse than every other, where the best are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Everything a worker is told. `examples`, `validation` and `weights` are in Ray's object store."""

    model: FastRCNNConfig
    solver: SolverConfig
    classes: tuple[str, ...]
    proposals: ProposalConfig
    num_iterations: int
    validate_every: int
    seed: int
    provenance: dict[str, Any]
    output: str
    """URI, for what rank 0 shows."""
    mlflow_uri: str | None
    examples: Any
    """ObjectRef of list[Example]."""
    validation: Any
    """ObjectRef of list[Example]; may be empty."""
    weights: Any
    """ObjectRef of the initial state_dict."""


def train_loop(setup: dict[str, TrainJob]) -> str | None:
    """Ray Train's train_loop_per_worker. Every rank makes as many steps and reports as often.

    Returns:
        None, or why the run cannot be finished: Ray would start a worker that raises anew, and the same
        seed leads to the same step.
    """
    configure_logging()
    try:
        _train(setup["job"])
    except NonFiniteLossError as error:  # its loss is summed over ranks, so all of them get here
        return str(error)
    return None


class _Trained(NamedTuple):
    """What a worker's steps change, and who it is."""

    job: TrainJob
    model: FastRCNN
    wrapped: nn.Module
    """The same model, or DDP around it."""
    optimizer: torch.optim.SGD
    progress: Progress
    validation: list[Example]
    boards: Sequence[TrainingBoard | MLflowRun]
    """What a person watches: rank 0's, which alone shows and saves."""
    rank: int
    world_size: int


def _train(job: TrainJob) -> None:
    if job.solver.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS
        torch.use_deterministic_algorithms(True)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    examples: list[Example] = ray.get(job.examples)
    validation: list[Example] = ray.get(job.validation)
    model = FastRCNN(job.model)
    model.load_state_dict(ray.get(job.weights))
    freeze_untrained(model, job.solver)  # before DDP, which waits for every gradient it knows of
    if job.solver.compile:
        model.backbone.compile(dynamic=True)  # images come in many sizes
    wrapped = ray.train.torch.prepare_model(model)
    optimizer = build_optimizer(model, job.solver)
    progress = restore_state(model, optimizer)
    load = partial(_load, examples, job, rank, world_size)
    with ExitStack() as stack:
        boards = list(_boards(job, progress)) if rank == 0 else []
        for board in boards:
            stack.enter_context(board)
        _take_steps(
            _Trained(
                job, model, wrapped, optimizer, progress, validation, boards, rank, world_size
            ),
            load,
        )


def _boards(job: TrainJob, progress: Progress) -> Iterator[TrainingBoard | MLflowRun]:
    yield TrainingBoard(job.output, progress.iteration)
    if job.mlflow_uri:
        yield MLflowRun(job.mlflow_uri, job.output, job.provenance["flags"])


def _take_steps(run: _Trained, load: Callable[[int], Batch]) -> None:
    job, progress = run.job, run.progress
    steps = range(progress.iteration, job.num_iterations)
    lines = ProgressLines(job.num_iterations, job.solver.batch_size)
    notice = PreemptionNotice()
    started = time.monotonic()
    for step, batch in zip(steps, prefetch(load, steps), strict=True):
        waited = time.monotonic() - started
        row = train_step(
            run.model,
            run.wrapped,
            run.optimizer,
            batch,
            job.solver,
            step=step,
            num_iterations=job.num_iterations,
            seed=job.seed,
            rank=run.rank,
            world_size=run.world_size,
        )
        row |= {"seconds": time.monotonic() - started, "waited": waited}
        progress.iteration = step + 1
        progress.history.append(row)
        if run.rank == 0:
            lines.step(row)
        for board in run.boards:
            board.step(row)
        last = progress.iteration == job.num_iterations
        if last or progress.iteration % job.validate_every == 0:
            _save(run, _validate(run))
        elif notice.came(progress.iteration):
            _save(run, {"iteration": progress.iteration, "loss": row["loss"]})
        started = time.monotonic()


def _load(examples: list[Example], job: TrainJob, rank: int, world_size: int, step: int) -> Batch:
    return load_batch(
        examples,
        step,
        job.solver.batch_size,
        job.seed,
        job.model,
        rank=rank,
        world_size=world_size,
    )


def _validate(run: _Trained) -> dict[str, Any]:
    """Metrics of the model as it is, on every rank; rank 0 shows them."""
    iteration = run.progress.iteration
    metrics: dict[str, Any] = {"iteration": iteration, "loss": run.progress.history[-1]["loss"]}
    if not run.validation:
        return metrics
    run.model.eval()
    classes = run.job.classes
    detector = detector_of(looking_once(run.model))
    found = validate(detector, len(classes), run.validation, run.rank, run.world_size)
    metrics |= found.metrics(classes)
    run.progress.validations.append(metrics)
    if run.rank == 0:
        logger.info("iteration %d: validation mAP %.4f", iteration, metrics["val_map"])
        pictures = draw_validation(found, run.validation, classes)
        for board in run.boards:
            board.validated(iteration, metrics, pictures)
    return metrics


def _save(run: _Trained, metrics: dict[str, Any]) -> None:
    """Rank 0 writes a checkpoint; every rank reports, and goes on before it has been uploaded."""
    job, progress = run.job, run.progress
    checkpoint = None
    for board in run.boards:
        board.save(progress.iteration)
    if run.rank == 0:
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))  # Ray removes it after the upload
        provenance = job.provenance | {"iteration": progress.iteration, "metrics": metrics}
        save_checkpoint(
            folder,
            run.model,
            classes=job.classes,
            proposals=job.proposals,
            training=provenance,
        )
        save_state(folder, run.model, run.optimizer, progress)
        checkpoint = ray.train.Checkpoint.from_directory(folder)
    ray.train.report(
        UNMEASURED | metrics,
        checkpoint=checkpoint,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
    )
