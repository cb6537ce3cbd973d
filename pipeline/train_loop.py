"""What each training worker does: restore, step, validate, save; rank 0 reports.

Nothing here knows where data lies or what the flags were: the driver (`pipeline.train`) hands over a
`TrainJob`. A rank's share of a step depends only on (seed, step, rank), so a run that is resumed, or has
another number of workers, takes the same steps.
"""

from __future__ import annotations

import json
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastrcnn.checkpoint import load_checkpoint, save_checkpoint
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.detection import detect
from fastrcnn.loss import training_loss
from fastrcnn.metrics import ImageDetections, ImageGroundTruth, evaluate_voc
from fastrcnn.model import FastRCNN
from fastrcnn.solver import SolverConfig, build_optimizer, learning_rate, set_learning_rate
from pipeline import storage
from pipeline.cli import configure_logging
from pipeline.examples import Batch, Example, load_batch, prefetch, step_seed
from pipeline.images import decode

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
VALIDATION_BATCH = 4
MOMENTUM, STATE = "momentum.safetensors", "training_state.json"


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


@dataclass(slots=True)
class Progress:
    """What grows while training, and is saved with each checkpoint."""

    iteration: int
    """Steps done."""
    history: list[dict[str, float]]
    """One row a step, averaged over all ranks."""
    validations: list[dict[str, Any]]


def train_loop(setup: dict[str, TrainJob]) -> None:
    """Ray Train's train_loop_per_worker. Every rank makes as many steps and reports as often."""
    configure_logging()
    job = setup["job"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    examples: list[Example] = ray.get(job.examples)
    validation: list[Example] = ray.get(job.validation)
    model = FastRCNN(job.model)
    model.load_state_dict(ray.get(job.weights))
    wrapped = ray.train.torch.prepare_model(model)
    optimizer = build_optimizer(model, job.solver)
    progress = _restore(model, optimizer)
    steps = range(progress.iteration, job.num_iterations)
    load = partial(_load, examples, job, rank, world_size)
    report_lines = _Lines(job.num_iterations, job.solver.batch_size) if rank == 0 else None
    waiting = time.monotonic()
    for step, batch in zip(steps, prefetch(load, steps), strict=True):
        waited = time.monotonic() - waiting
        row = _step(job, model, wrapped, optimizer, batch, step, rank, world_size)
        progress.iteration = step + 1
        progress.history.append(row)
        if report_lines:
            report_lines.step(row, waited)
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
        metrics |= _validate(model, job.classes, validation, rank, world_size)
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
        _save_state(Path(folder), model, optimizer, progress)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _validate(
    model: FastRCNN,
    classes: tuple[str, ...],
    validation: list[Example],
    rank: int,
    world_size: int,
) -> dict[str, Any]:
    """VOC07 mAP; each rank detects on its share."""
    model.eval()
    found: dict[int, ImageDetections] = {}
    own = range(rank, len(validation), world_size)
    for start in range(0, len(own), VALIDATION_BATCH):
        indices = own[start : start + VALIDATION_BATCH]
        pixels = [decode(storage.read_bytes(validation[i].image.image_uri)).pixels for i in indices]
        detections = detect(model, pixels, [validation[i].proposals for i in indices])
        for index, (boxes, labels, scores) in zip(indices, detections, strict=True):
            found[index] = ImageDetections(
                boxes=boxes.numpy(), labels=labels.numpy(), scores=scores.numpy()
            )
    if world_size > 1:
        shares: list[Any] = [None] * world_size
        dist.all_gather_object(shares, found)
        found = {index: result for share in shares for index, result in share.items()}
    result = evaluate_voc(
        [_ground_truth(example) for example in validation],
        [found[index] for index in range(len(validation))],
        len(classes),
    )
    per_class = {name: float(ap) for name, ap in zip(classes, result.ap, strict=True)}
    return {"val_map": float(result.mean_ap), "val_ap": per_class}


def _ground_truth(example: Example) -> ImageGroundTruth:
    image = example.image
    return ImageGroundTruth(
        boxes=image.gt_boxes, labels=image.gt_labels, difficult=image.difficult, crowd=image.crowd
    )


def _save_state(
    folder: Path, model: FastRCNN, optimizer: torch.optim.SGD, progress: Progress
) -> None:
    """Momentum by parameter name and progress as JSON, beside the model: nothing is pickled."""
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


def _restore(model: FastRCNN, optimizer: torch.optim.SGD) -> Progress:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Progress(0, [], [])
    with checkpoint.as_directory() as folder:
        model.load_state_dict(load_checkpoint(Path(folder)).model.state_dict())
        momentum: dict[str, Tensor] = load_file(Path(folder) / MOMENTUM)
        state = json.loads((Path(folder) / STATE).read_text())
    for name, parameter in model.named_parameters():
        if name in momentum:
            optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(parameter.device)
    for group, rate in zip(optimizer.param_groups, state["learning_rates"], strict=True):
        group["lr"] = rate  # Caffe's momentum is relative to the rate it was gathered at
    logger.info("resumed at iteration %d", state["iteration"])
    return Progress(state["iteration"], state["history"], state["validations"])


class _Lines:
    """Progress as plain lines, one every `SECONDS_BETWEEN_LINES`."""

    def __init__(self, num_iterations: int, batch_size: int) -> None:
        self.num_iterations = num_iterations
        self.batch_size = batch_size
        self.rows: list[dict[str, float]] = []
        self.waited = 0.0
        self.since = time.monotonic()

    def step(self, row: dict[str, float], waited: float) -> None:
        self.rows.append(row)
        self.waited += waited
        elapsed = time.monotonic() - self.since
        if elapsed < SECONDS_BETWEEN_LINES and row["iteration"] < self.num_iterations:
            return
        mean = {key: sum(r[key] for r in self.rows) / len(self.rows) for key in row}
        speed = len(self.rows) / max(elapsed, 1e-9)
        logger.info(
            "step %d/%d  loss %.3f (class %.3f, box %.3f)  lr %.2g  foreground %.0f%%"
            "  %.1f images/s  waiting for data %.0f%%  %.0f s left",
            row["iteration"],
            self.num_iterations,
            mean["loss"],
            mean["classification"],
            mean["localization"],
            row["learning_rate"],
            100 * mean["foreground"],
            speed * self.batch_size,
            100 * self.waited / max(elapsed, 1e-9),
            (self.num_iterations - row["iteration"]) / speed,
        )
        self.rows, self.waited, self.since = [], 0.0, time.monotonic()
