"""One step of SGD on a rank's share of a batch, whoever runs it: a Ray Train worker or an ablation trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastrcnn.config import SolverConfig
from fastrcnn.loss import training_loss
from fastrcnn.model import FastRCNN
from fastrcnn.precision import multiplies_bfloat16
from fastrcnn.solver import learning_rate, set_learning_rate
from pipeline.training.examples import Batch, step_seed


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite: names the step, the images and the parts."""


def train_step(
    model: FastRCNN,
    wrapped: nn.Module,
    optimizer: torch.optim.SGD,
    batch: Batch,
    solver: SolverConfig,
    *,
    step: int,
    num_iterations: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, float]:
    """Forward, backward and step; every rank calls it with its share of the same step.

    Args:
        model: the network.
        wrapped: the same, or DDP around it.
        batch: this rank's images.
        solver, step, num_iterations: what the rate follows from.
        seed: of dropout.

    Returns:
        The row of the history that the step makes, averaged over the RoIs of all ranks.

    Raises:
        NonFiniteLossError: on every rank, before any weight has changed.
    """
    wrapped.train()
    rate = learning_rate(solver, step, num_iterations)
    set_learning_rate(optimizer, rate, caffe_momentum=solver.caffe_momentum)
    torch.manual_seed(step_seed(seed, step, rank))  # dropout
    optimizer.zero_grad(set_to_none=True)
    # Gradients of RoIs are added up over passes and ranks, then divided by what there were. Dividing by the
    # usual number first keeps them near 1.
    usual = solver.batch_size * model.config.rois_per_image
    sums = _accumulate(model, wrapped, batch, solver, world_size / usual)
    if world_size > 1:
        dist.all_reduce(sums)
    total, classification, localization, num_rois, num_fg, *rpn, num_images = sums.tolist()
    if not math.isfinite(total + sum(rpn)):
        own = f", objectness {rpn[0]}, anchors' boxes {rpn[1]}" if model.rpn else ""
        raise NonFiniteLossError(
            f"loss at step {step} is not finite: classification {classification}, localization"
            f" {localization}{own}; images: {', '.join(_all_images(batch, world_size))}."
            " Look at them, or lower --learning-rate."
        )
    count = max(num_rois, 1.0)
    # An RPN's are divided by the anchors asked for, the heads' then by the RoIs asked for too: one factor
    # cannot make up for what both found short.
    if count != usual and model.rpn is None:
        _scale_gradients(optimizer, usual / count)
    if solver.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), solver.max_grad_norm)
    optimizer.step()
    objectness, rpn_box = (value / max(num_images, 1.0) for value in rpn)
    return {
        "iteration": step + 1,
        "loss": total / count + objectness + rpn_box,
        "classification": classification / count,
        "localization": localization / count,
        "learning_rate": rate,
        "rois": num_rois,
        "foreground": num_fg / count,
    } | ({"loss_objectness": objectness, "loss_rpn_box": rpn_box} if model.rpn else {})


def _all_images(batch: Batch, world_size: int) -> list[str]:
    """URIs of the step's images on every rank."""
    if world_size == 1:
        return batch.image_uris
    shares: list[Any] = [None] * world_size
    dist.all_gather_object(shares, batch.image_uris)
    return [uri for share in shares for uri in share]


def _accumulate(
    model: FastRCNN, wrapped: nn.Module, batch: Batch, solver: SolverConfig, weight: float
) -> Tensor:
    """Backward of every pass; sums over this rank's RoIs: the three losses, RoIs, foreground RoIs; over its
    images: the RPN's two losses, images."""
    passes = _passes(batch, solver.images_per_pass)
    device = model.head.delta_mean.device
    sums = torch.zeros(8, device=device)
    for index, part in enumerate(passes):
        # DDP averages gradients over the ranks in the last backward, of all that was added up till then.
        last = index == len(passes) - 1
        with nullcontext() if last else _no_sync(wrapped):
            with _autocast(solver, device):
                out = training_loss(
                    wrapped,
                    part.images,
                    part.targets,
                    config=model.config,
                    delta_mean=model.head.delta_mean,
                    delta_std=model.head.delta_std,
                    seeds=part.seeds,
                )
            total = out.loss.total * (out.num_rois * weight)
            rpn = torch.stack([*out.rpn]) if out.rpn else torch.zeros(2, device=device)
            if out.rpn:
                # An image counts as much as the RoIs asked of it.
                total = total + rpn.sum() * (
                    len(part.images) * model.config.rois_per_image * weight
                )
            torch.autograd.backward(total)
        losses = torch.stack([*out.loss]).detach() * out.num_rois
        counts = losses.new_tensor([out.num_rois, out.num_fg])
        images = losses.new_tensor([len(part.images)])
        sums += torch.cat([losses, counts, rpn.detach() * len(part.images), images])
    return sums


def _passes(batch: Batch, images_per_pass: int | None) -> Sequence[Batch]:
    size = images_per_pass or max(len(batch.images), 1)
    cuts = [slice(start, start + size) for start in range(0, max(len(batch.images), 1), size)]
    return [
        Batch(batch.images[c], batch.targets[c], batch.seeds[c], batch.image_uris[c]) for c in cuts
    ]


def _no_sync(wrapped: nn.Module) -> AbstractContextManager[Any]:
    if isinstance(wrapped, DistributedDataParallel):
        return wrapped.no_sync()
    return nullcontext()


def _autocast(solver: SolverConfig, device: torch.device) -> AbstractContextManager[Any]:
    if solver.mixed_precision and multiplies_bfloat16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _scale_gradients(optimizer: torch.optim.SGD, factor: float) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
