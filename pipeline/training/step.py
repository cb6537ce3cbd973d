"""Take one step of training on a rank's share of a batch. Ray Train workers and ablation trials call it."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastrcnn.config import SolverConfig
from fastrcnn.loss import Objective, TrainingLoss
from fastrcnn.model import FastRCNN
from fastrcnn.precision import full_float32, multiplies_bfloat16
from fastrcnn.solver import learning_rate, set_learning_rate
from fastrcnn.upload import send
from pipeline.training.examples import Batch, step_seed


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite. The message names the step, the images and the loss parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSettings:
    """What stays the same in all steps of a worker."""

    solver: SolverConfig
    num_iterations: int
    """Steps of the whole run; the learning rate depends on it."""
    seed: int
    """Seed of the run. The seed for dropout is made from it, the step and the rank."""
    rank: int = 0
    world_size: int = 1


class _Sums(NamedTuple):
    """Sums over RoIs, and for the RPN over images; of one rank, or of all ranks."""

    total: float
    classification: float
    localization: float
    num_rois: float
    num_fg: float
    objectness: float
    rpn_box: float
    num_images: float


def model_of(objective: nn.Module) -> FastRCNN:
    """Give the model of an `Objective`, with or without DistributedDataParallel around it."""
    if isinstance(objective, DistributedDataParallel):
        objective = objective.module
    if not isinstance(objective, Objective):
        raise TypeError(f"expected an Objective or DDP around one, not {type(objective).__name__}")
    return objective.model


def train_step(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    settings: StepSettings,
) -> dict[str, float]:
    """Run forward and backward, and update the weights. Every rank calls it with its share of the same step.

    Args:
        objective: an `Objective`. With several ranks, DistributedDataParallel around one.
        optimizer: holds the same parameters.
        batch: the images of this rank.
        step: counted from 0.

    Returns:
        The step's row of the history: losses averaged over the RoIs of all ranks.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite. All ranks raise it, before any weight is changed.
    """
    model, solver = model_of(objective), settings.solver
    objective.train()
    rate = learning_rate(solver, step, settings.num_iterations)
    set_learning_rate(optimizer, rate, caffe_momentum=solver.caffe_momentum)
    torch.manual_seed(step_seed(settings.seed, step, settings.rank))  # dropout
    optimizer.zero_grad(set_to_none=True)
    # The gradient is the sum over RoIs, passes and ranks, divided by the number of sampled RoIs. That number
    # is known only after the forward passes. So each pass divides by the number requested, which keeps the
    # sums near 1, and the gradient is corrected below.
    requested = solver.batch_size * model.config.rois_per_image
    mixed = _uses_bfloat16(solver, model.device)
    with nullcontext() if mixed else full_float32():
        shared = _backward(objective, batch, solver, settings.world_size / requested)
    if settings.world_size > 1:
        dist.all_reduce(shared)
    sums = _Sums(*shared.tolist())
    if not math.isfinite(sums.total + sums.objectness + sums.rpn_box):
        images = _all_images(batch, settings.world_size)
        raise NonFiniteLossError(_describe(sums, step, images, with_rpn=model.rpn is not None))
    # With an RPN there is no correction: its gradients are divided by the number of anchors requested, the
    # head's by the number of RoIs requested, and one factor cannot correct both.
    if max(sums.num_rois, 1.0) != requested and model.rpn is None:
        _scale_gradients(optimizer, requested / max(sums.num_rois, 1.0))
    if solver.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(objective.parameters(), solver.max_grad_norm)
    optimizer.step()
    return _history_row(sums, step, rate, with_rpn=model.rpn is not None)


def _history_row(sums: _Sums, step: int, rate: float, *, with_rpn: bool) -> dict[str, float]:
    """Turn the sums over all ranks into the step's row of the history."""
    count = max(sums.num_rois, 1.0)
    objectness, rpn_box = (
        value / max(sums.num_images, 1.0) for value in (sums.objectness, sums.rpn_box)
    )
    row = {
        "iteration": step + 1,
        "loss": sums.total / count + objectness + rpn_box,
        "classification": sums.classification / count,
        "localization": sums.localization / count,
        "learning_rate": rate,
        "rois": sums.num_rois,
        "foreground": sums.num_fg / count,
    }
    return row | ({"loss_objectness": objectness, "loss_rpn_box": rpn_box} if with_rpn else {})


def _describe(sums: _Sums, step: int, images: list[str], *, with_rpn: bool) -> str:
    """Write the message of a NonFiniteLossError."""
    rpn = f", objectness {sums.objectness}, anchor boxes {sums.rpn_box}" if with_rpn else ""
    return (
        f"the loss at step {step} is not finite: classification {sums.classification}, localization"
        f" {sums.localization}{rpn}; images: {', '.join(images)}."
        " Check these images, or lower --learning-rate."
    )


def _all_images(batch: Batch, world_size: int) -> list[str]:
    """Collect the URIs of the step's images from all ranks."""
    if world_size == 1:
        return batch.image_uris
    shares: list[Any] = [None] * world_size
    dist.all_gather_object(shares, batch.image_uris)
    return [uri for share in shares for uri in share]


def _backward(objective: nn.Module, batch: Batch, solver: SolverConfig, weight: float) -> Tensor:
    """Run forward and backward on each pass of a batch.

    Args:
        weight: weight of one RoI in the gradient.

    Returns:
        This rank's `_Sums` as a tensor (8,).
    """
    model = model_of(objective)
    sums = torch.zeros(len(_Sums._fields), device=model.device)
    passes = _passes(batch, solver.images_per_pass)
    for part in passes:
        # DDP averages the gradients over the ranks in the last backward; until then they add up on each rank.
        with nullcontext() if part is passes[-1] else _no_sync(objective):
            with _autocast(solver, model.device):
                losses: TrainingLoss = objective(part.images, part.targets, part.seeds)
            total = losses.loss.total * (losses.num_rois * weight)
            if losses.rpn is not None:
                # An image has the weight of the RoIs requested in it.
                rois = len(part.images) * model.config.rois_per_image
                total = total + torch.stack([*losses.rpn]).sum() * (rois * weight)
            torch.autograd.backward(total)
        sums += _sums_of(losses, len(part.images))
    return sums


def _sums_of(losses: TrainingLoss, num_images: int) -> Tensor:
    """Turn the mean losses of a pass into `_Sums`: a tensor (8,) without gradient."""
    head = torch.stack([*losses.loss]).detach() * losses.num_rois
    numbers = torch.tensor([losses.num_rois, losses.num_fg, num_images], dtype=head.dtype)
    counts = send(numbers, head.device)
    rpn = head.new_zeros(2) if losses.rpn is None else torch.stack([*losses.rpn]).detach()
    return torch.cat([head, counts[:2], rpn * num_images, counts[2:]])


def _passes(batch: Batch, images_per_pass: int | None) -> list[Batch]:
    """Split a batch into passes through the network. An empty batch gives one empty pass."""
    num_images = max(len(batch.images), 1)
    size = images_per_pass or num_images
    cuts = [slice(start, start + size) for start in range(0, num_images, size)]
    return [
        Batch(batch.images[c], batch.targets[c], batch.seeds[c], batch.image_uris[c]) for c in cuts
    ]


def _no_sync(objective: nn.Module) -> AbstractContextManager[Any]:
    if isinstance(objective, DistributedDataParallel):
        return objective.no_sync()
    return nullcontext()


def _autocast(solver: SolverConfig, device: torch.device) -> AbstractContextManager[Any]:
    if _uses_bfloat16(solver, device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _uses_bfloat16(solver: SolverConfig, device: torch.device) -> bool:
    return solver.mixed_precision and multiplies_bfloat16(device)


def _scale_gradients(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
