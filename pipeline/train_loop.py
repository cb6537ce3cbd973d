"""What each training worker does: restore, step, validate, save; rank 0 reports.

Nothing here knows where data lies or what the flags were: the driver (`pipeline.train`) hands over a
`TrainJob`. A rank's share of a step depends only on (seed, step, rank), so a run that is resumed, or has
another number of workers, takes the same steps.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import nn

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.loss import training_loss
from fastrcnn.model import FastRCNN
from fastrcnn.solver import SolverConfig, build_optimizer, learning_rate, set_learning_rate
from pipeline.cli import configure_logging
from pipeline.examples import Batch, Example, load_batch, prefetch, step_seed
from pipeline.progress_lines import ProgressLines
from pipeline.training_state import Progress, restore_state, save_state
from pipeline.validation import validate

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
    examples: Any
    """ObjectRef of list[Example]."""
    validation: Any
    """ObjectRef of list[Example]; may be empty."""
    weights: Any
    """ObjectRef of the initial state_dict."""


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite: names the step, the images and the parts."""


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
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    examples: list[Example] = ray.get(job.examples)
    validation: list[Example] = ray.get(job.validation)
    model = FastRCNN(job.model)
    model.load_state_dict(ray.get(job.weights))
    wrapped = ray.train.torch.prepare_model(model)
    optimizer = build_optimizer(model, job.solver)
    progress = restore_state(model, optimizer)
    steps = range(progress.iteration, job.num_iterations)
    load = partial(_load, examples, job, rank, world_size)
    lines = ProgressLines(job.num_iterations, job.solver.batch_size) if rank == 0 else None
    waiting = time.monotonic()
    for step, batch in zip(steps, prefetch(load, steps), strict=True):
        waited = time.monotonic() - waiting
        row = _step(job, model, wrapped, optimizer, batch, step, rank, world_size)
        progress.iteration = step + 1
        progress.history.append(row)
        if lines:
            lines.step(row, waited)
        if progress.iteration % job.validate_every == 0 or progress.iteration == job.num_iterations:
            _validate_and_save(job, model, optimizer, progress, validation, rank, world_size)
        waiting = time.monotonic()


def _load(examples: list[Example], job: TrainJob, rank: int, world_size: int, step: int) -> Batch:
    return load_batch(
        examples, step, job.solver.batch_size, job.seed, rank=rank, world_size=world_size
    )


def _step(
    job: TrainJob,
    model: FastRCNN,
    wrapped: nn.Module,
    optimizer: torch.optim.SGD,
    batch: Batch,
    step: int,
    rank: int,
    world_size: int,
) -> dict[str, float]:
    """One SGD step; the row of the history it makes."""
    wrapped.train()
    rate = learning_rate(job.solver, step, job.num_iterations)
    set_learning_rate(optimizer, rate, caffe_momentum=job.solver.caffe_momentum)
    torch.manual_seed(step_seed(job.seed, step, rank))  # dropout
    with _autocast(job.solver, model.head.delta_mean.device):
        out = training_loss(
            wrapped,
            batch.images,
            batch.targets,
            config=job.model,
            delta_mean=model.head.delta_mean,
            delta_std=model.head.delta_std,
            seeds=batch.seeds,
        )
    parts = torch.stack([*out.loss, torch.ones_like(out.loss.total)]).detach() * out.num_rois
    sums = torch.cat([parts, parts.new_tensor([out.num_fg])])
    if world_size > 1:
        dist.all_reduce(sums)
    total, classification, localization, num_rois, num_fg = sums.tolist()
    if not math.isfinite(total):
        raise NonFiniteLossError(
            f"loss at step {step} is not finite: classification {classification}, localization"
            f" {localization}; this rank's images: {', '.join(batch.image_uris)}."
            " Lower --learning-rate; the last checkpoint is good."
        )
    # DDP averages over ranks as if each had as many RoIs; weighting makes it the average over RoIs.
    optimizer.zero_grad(set_to_none=True)
    (out.loss.total * (out.num_rois * world_size / max(num_rois, 1.0))).backward()
    if job.solver.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.solver.max_grad_norm)
    optimizer.step()
    count = max(num_rois, 1.0)
    return {
        "iteration": step + 1,
        "loss": total / count,
        "classification": classification / count,
        "localization": localization / count,
        "learning_rate": rate,
        "rois": num_rois,
        "foreground": num_fg / count,
    }


def _autocast(solver: SolverConfig, device: torch.device) -> AbstractContextManager[Any]:
    if solver.mixed_precision and device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def _validate_and_save(
    job: TrainJob,
    model: FastRCNN,
    optimizer: torch.optim.SGD,
    progress: Progress,
    validation: list[Example],
    rank: int,
    world_size: int,
) -> None:
    metrics: dict[str, Any] = {
        "iteration": progress.iteration,
        "loss": progress.history[-1]["loss"],
    }
    if validation:
        metrics |= validate(model, job.classes, validation, rank, world_size)
        progress.validations.append(metrics)
        if rank == 0:
            logger.info("iteration %d: validation mAP %.4f", progress.iteration, metrics["val_map"])
    if rank != 0:
        ray.train.report(metrics)
        return
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
