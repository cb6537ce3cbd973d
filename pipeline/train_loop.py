"""What each training worker does: restore, step, validate, save; rank 0 reports.

Nothing here knows where data lies or what the flags were: the driver (`pipeline.train`) hands over a
`TrainJob`. A rank's share of a step depends only on (seed, step, rank), so a run that is resumed, or has
another number of workers, takes the same steps.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.detection import detect
from fastrcnn.model import FastRCNN
from fastrcnn.solver import SolverConfig, build_optimizer, freeze_untrained
from pipeline.cli import configure_logging
from pipeline.examples import Batch, Example, load_batch, prefetch
from pipeline.progress_lines import ProgressLines
from pipeline.train_step import NonFiniteLossError, train_step
from pipeline.training_board import TrainingBoard
from pipeline.training_state import Progress, restore_state, save_state
from pipeline.validation import validate
from pipeline.validation_pictures import draw_validation

logger = logging.getLogger(__name__)


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
    wrapped = ray.train.torch.prepare_model(model)
    optimizer = build_optimizer(model, job.solver)
    progress = restore_state(model, optimizer)
    steps = range(progress.iteration, job.num_iterations)
    load = partial(_load, examples, job, rank, world_size)
    lines = ProgressLines(job.num_iterations, job.solver.batch_size) if rank == 0 else None
    with TrainingBoard(job.output, progress.iteration) if rank == 0 else nullcontext() as board:
        waiting = time.monotonic()
        for step, batch in zip(steps, prefetch(load, steps), strict=True):
            waited = time.monotonic() - waiting
            row = train_step(
                model,
                wrapped,
                optimizer,
                batch,
                job.solver,
                step=step,
                num_iterations=job.num_iterations,
                seed=job.seed,
                rank=rank,
                world_size=world_size,
            )
            progress.iteration = step + 1
            progress.history.append(row)
            if lines and board:
                lines.step(row, waited)
                board.step(row)
            if (
                progress.iteration % job.validate_every == 0
                or progress.iteration == job.num_iterations
            ):
                _validate_and_save(
                    job, model, optimizer, progress, validation, board, rank, world_size
                )
            waiting = time.monotonic()


def _load(examples: list[Example], job: TrainJob, rank: int, world_size: int, step: int) -> Batch:
    return load_batch(
        examples, step, job.solver.batch_size, job.seed, rank=rank, world_size=world_size
    )


def _validate_and_save(
    job: TrainJob,
    model: FastRCNN,
    optimizer: torch.optim.SGD,
    progress: Progress,
    validation: list[Example],
    board: TrainingBoard | None,
    rank: int,
    world_size: int,
) -> None:
    """`board`: of rank 0, which alone saves."""
    metrics: dict[str, Any] = {
        "iteration": progress.iteration,
        "loss": progress.history[-1]["loss"],
    }
    if validation:
        model.eval()
        run = partial(detect, model)
        found = validate(run, len(job.classes), validation, rank, world_size)
        metrics |= found.metrics(job.classes)
        progress.validations.append(metrics)
        if board:
            logger.info("iteration %d: validation mAP %.4f", progress.iteration, metrics["val_map"])
            board.validated(
                progress.iteration, metrics, draw_validation(found, validation, job.classes)
            )
    if not board:
        ray.train.report(metrics)
        return
    board.save(progress.iteration)
    with tempfile.TemporaryDirectory() as folder:
        provenance = job.provenance | {"iteration": progress.iteration, "metrics": metrics}
        save_checkpoint(
            Path(folder),
            model,
            classes=job.classes,
            proposals=job.proposals,
            training=provenance,
        )
        save_state(Path(folder), model, optimizer, progress)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
