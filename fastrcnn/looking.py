"""Like-shaped images through the network: what its heads say of given proposals, or of its own.

N images, P proposals of one, K classes. Proposals are in the image frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fastrcnn.boxes import clip, flip, transpose
from fastrcnn.pooling import scale_levels
from fastrcnn.rpn import RPN, Proposed
from fastrcnn.suppression import distinct
from fastrcnn.transform import ImageBatch, batch_images, to_rois

if TYPE_CHECKING:
    from fastrcnn.config import FastRCNNConfig
    from fastrcnn.model import FastRCNN


class Looked(NamedTuple):
    """Like-shaped images after their pass through the network."""

    counts: list[int]
    """Proposals of each image, before near-duplicates were left out."""
    proposals: list[Tensor]
    """(P, 4) of each image, image frame."""
    class_logits: Tensor
    """(sum of P, K + 1)."""
    box_deltas: Tensor
    """(sum of P, 4 * (K + 1))."""


def look(model: FastRCNN, images: Sequence[Tensor], given: Sequence[Tensor] | None) -> Looked:
    """What the network says of like-shaped images: of given proposals (P, 4) of each, or of its own RPN's."""
    if given is None:
        looked = _propose_and_classify(model, images)
    else:
        looked = _classify_given(model, images, given)
    return _averaged(model, images, looked)


def _classify_given(model: FastRCNN, images: Sequence[Tensor], given: Sequence[Tensor]) -> Looked:
    own = distinct(given, model.config.proposal_nms)
    outputs = _classify(model, images, own, model.config.scales)
    return Looked([len(boxes) for boxes in given], own, *outputs)


def _propose_and_classify(model: FastRCNN, images: Sequence[Tensor]) -> Looked:
    """One pass of the backbone, for the RPN and for the heads."""
    config = model.config
    batch = batch_images(images, config.scale, config.max_size, model.head.delta_mean.device)
    counts: list[int] = []
    own: list[Tensor] = []

    def choose(rpn: RPN, features: list[Tensor]) -> Tensor:
        proposed = [found.boxes for found in propose(rpn, features, batch)]
        counts.extend(map(len, proposed))
        own.extend(distinct(proposed, config.proposal_nms))
        return to_rois(own, batch.factors)

    class_logits, box_deltas = model(batch.images, choose)
    return Looked(counts, own, class_logits, box_deltas)


def propose(rpn: RPN, features: list[Tensor], batch: ImageBatch) -> list[Proposed]:
    """In the image frame."""
    found = rpn.propose(rpn(features, batch.scaled))
    each = zip(found, batch.factors, batch.sizes, strict=True)
    return [Proposed(clip(one.boxes / factor, size), one.scores) for one, factor, size in each]


class _View(NamedTuple):
    """One look at the proposals."""

    scales: tuple[int, ...]
    transposed: bool
    """Rows and columns swapped, before the mirrors."""
    sideways: bool
    upside_down: bool


def _views(config: FastRCNNConfig) -> list[_View]:
    """The first is the image as it is."""
    both = (False, True)
    turns = both if config.test_flips and config.quarter_turns else both[:1]
    mirrors = both if config.test_flips else both[:1]
    upside_down = both if config.test_flips and config.vertical_flips else both[:1]
    scales = [config.scales, *((scale,) for scale in config.test_scales)]
    return [_View(*view) for view in product(scales, turns, mirrors, upside_down)]


def _averaged(model: FastRCNN, images: Sequence[Tensor], first: Looked) -> Looked:
    """The means of the outputs of all views of the same proposals, of which the first is there."""
    _, *others = _views(model.config)
    if not others:
        return first
    class_logits, box_deltas = first.class_logits, first.box_deltas
    for view in others:
        logits, deltas = _look_again(model, images, first.proposals, view)
        class_logits = class_logits + logits
        box_deltas = box_deltas + deltas
    count = len(others) + 1
    return first._replace(class_logits=class_logits / count, box_deltas=box_deltas / count)


def _look_again(
    model: FastRCNN, images: Sequence[Tensor], proposals: Sequence[Tensor], view: _View
) -> tuple[Tensor, Tensor]:
    """The heads' outputs for the same proposals in a view, of the image as it is.

    A mirrored box's centre moves the other way, its sides stay: of a delta (dx, dy, dw, dh) left to right
    turns the sign of dx, upside down that of dy; a transposition swaps both pairs; a scale changes none.
    """
    if view.transposed:
        images = [image.transpose(0, 1) for image in images]
        proposals = [transpose(boxes) for boxes in proposals]
    axes = [axis for axis, turned in enumerate((view.upside_down, view.sideways)) if turned]
    for axis in axes:
        pairs = zip(proposals, images, strict=True)
        proposals = [flip(boxes, i.shape[axis], vertically=axis == 0) for boxes, i in pairs]
    flipped = [image.flip(axes) for image in images]
    logits, deltas = _classify(model, flipped, proposals, view.scales)
    signs = deltas.new_tensor([1 - 2 * view.sideways, 1 - 2 * view.upside_down, 1, 1])
    each = deltas.reshape(len(deltas), -1, 4) * signs
    return logits, (transpose(each) if view.transposed else each).flatten(1)


def _classify(
    model: FastRCNN,
    images: Sequence[Tensor],
    proposals: Sequence[Tensor],
    scales: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Class logits and deltas of the proposals of like-shaped images, in their order.

    Of several scales, a pyramid's levels, each proposal has one. Each level is a pass of its own over all
    images: in one batch for all levels the small ones would be padded to the largest, which for the paper's
    five is 2.2 times the pixels.
    """
    config, device = model.config, model.head.delta_mean.device
    if len(scales) == 1:
        batch = batch_images(images, scales[0], config.max_size, device)
        outputs: tuple[Tensor, Tensor] = model(batch.images, to_rois(proposals, batch.factors))
        return outputs
    counts = [len(p) for p in proposals]
    levels = torch.cat(
        [
            scale_levels(p, scales, (image.shape[0], image.shape[1]), max_size=config.max_size)
            for p, image in zip(proposals, images, strict=True)
        ]
    )  # (R,)
    num_outputs = config.num_classes + 1
    class_logits = torch.zeros(len(levels), num_outputs, device=device)
    box_deltas = torch.zeros(len(levels), 4 * num_outputs, device=device)
    for level, scale in enumerate(scales):
        chosen = levels == level
        if not chosen.any():
            continue
        batch = batch_images(images, scale, config.max_size, device)
        own = [p[c] for p, c in zip(proposals, torch.split(chosen, counts), strict=True)]
        class_logits[chosen], box_deltas[chosen] = model(batch.images, to_rois(own, batch.factors))
    return class_logits, box_deltas
