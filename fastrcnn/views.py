"""Test-time augmentation: the network sees each image in several views, and its outputs are averaged.

A view is the image transposed, mirrored or at another scale. The upright view is the image as given.

Legend: N images of equal canvases; P proposals of one image; R proposals of all N images; K classes; L
feature maps. Proposals are in the image frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fastrcnn.boxes import flip, transpose
from fastrcnn.pooling import scale_levels
from fastrcnn.transform import ImageBatch, batch_images, image_indices, to_rois

if TYPE_CHECKING:
    from fastrcnn.config import FastRCNNConfig
    from fastrcnn.model import FastRCNN


class Features(NamedTuple):
    """The feature maps of N images at one scale."""

    batch: ImageBatch
    maps: list[Tensor]
    """L maps (N, C, H_l, W_l), finest first."""


class Outputs(NamedTuple):
    """The head's outputs for R proposals."""

    class_logits: Tensor
    """(R, K + 1)."""
    box_deltas: Tensor
    """(R, 4 * (K + 1))."""


def compute_features(model: FastRCNN, images: Sequence[Tensor], scale: int) -> Features:
    """Resize N images (H, W, 3) uint8 to `scale`, pad them into one batch, and run the backbone."""
    batch = batch_images(
        images, scale, model.config.max_size, model.device, resize=model.config.resize
    )
    return Features(batch, model.features(batch.images))


def classify(model: FastRCNN, features: Features, proposals: Sequence[Tensor]) -> Outputs:
    """Run the head on N tensors of proposals (P, 4), pooled from feature maps of one scale."""
    rois = to_rois(proposals, features.batch.factors)  # (R, 5), model frame
    return Outputs(*model.classify(features.maps, rois))


def classify_at_scales(
    model: FastRCNN,
    images: Sequence[Tensor],
    proposals: Sequence[Tensor],
    scales: Sequence[int],
) -> Outputs:
    """Run backbone and head on N images (H, W, 3) and their proposals (P, 4).

    Several scales are the levels of an image pyramid: each proposal is pooled from one level. The images are
    passed through the backbone once per level. One padded batch for all levels would be slower: for the
    paper's five levels it has 2.2 times the pixels.

    Returns:
        Outputs of the R proposals, in the order of the proposals.
    """
    if len(scales) == 1:
        return classify(model, compute_features(model, images, scales[0]), proposals)
    num_images = len(images)
    levels = _levels(model.config, images, proposals, scales)  # (R,)
    image = image_indices([len(boxes) for boxes in proposals], levels.device)
    group = levels * num_images + image
    order = group.argsort(stable=True)
    groups = torch.arange(len(scales) * num_images, device=group.device)
    counts = (group[:, None] == groups).sum(dim=0).tolist()  # the host waits once
    ordered = torch.split(torch.cat([*proposals])[order], counts)
    outputs = []
    for level, scale in enumerate(scales):
        at_level = ordered[level * num_images : (level + 1) * num_images]
        if any(len(boxes) for boxes in at_level):
            outputs.append(classify(model, compute_features(model, images, scale), at_level))
    if not outputs:  # no image has a proposal
        num_outputs = model.config.num_classes + 1
        empty = [torch.zeros(0, n * num_outputs, device=model.device) for n in (1, 4)]
        return Outputs(*empty)
    pairs = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return Outputs(*(torch.zeros_like(rows).index_put((order,), rows) for rows in pairs))


def _levels(
    config: FastRCNNConfig,
    images: Sequence[Tensor],
    proposals: Sequence[Tensor],
    scales: Sequence[int],
) -> Tensor:
    """Select the level of the image pyramid of each of the R proposals: (R,) int64."""
    pairs = zip(proposals, images, strict=True)
    sizes = [(boxes, (image.shape[0], image.shape[1])) for boxes, image in pairs]
    return torch.cat([scale_levels(b, scales, size, max_size=config.max_size) for b, size in sizes])


def average_over_views(
    model: FastRCNN, images: Sequence[Tensor], proposals: Sequence[Tensor], upright: Outputs
) -> Outputs:
    """Average the head's outputs over all views that the config asks for.

    Args:
        images: N tensors (H, W, 3) uint8.
        proposals: N tensors (P, 4). All views use the same ones.
        upright: the outputs for the upright view.
    """
    _, *other_views = _views(model.config)
    if not other_views:
        return upright
    class_logits, box_deltas = upright
    for view in other_views:
        outputs = _classify_view(model, images, proposals, view)
        class_logits = class_logits + outputs.class_logits
        box_deltas = box_deltas + outputs.box_deltas
    count = len(other_views) + 1
    return Outputs(class_logits / count, box_deltas / count)


class _View(NamedTuple):
    """The changes to an image before the network sees it."""

    scales: tuple[int, ...]
    transposed: bool
    """Rows and columns are swapped, before any mirroring."""
    sideways: bool
    """Mirrored left to right."""
    upside_down: bool
    """Mirrored top to bottom."""


def _views(config: FastRCNNConfig) -> list[_View]:
    """List the views of a config. The first one is the upright view.

    `test_flips` asks only for views that training shows too: a mirror may make one class of another.
    """
    both = (False, True)
    turns = both if config.test_flips and config.quarter_turns else both[:1]
    mirrors = both if config.test_flips and config.horizontal_flips else both[:1]
    upside_down = both if config.test_flips and config.vertical_flips else both[:1]
    scales = [config.scales, *((scale,) for scale in config.test_scales)]
    return [_View(*view) for view in product(scales, turns, mirrors, upside_down)]


def _classify_view(
    model: FastRCNN, images: Sequence[Tensor], proposals: Sequence[Tensor], view: _View
) -> Outputs:
    """Run the network on one view. Return outputs that hold for the upright images.

    Mirroring moves the centre of a box to the other side and keeps its width and height. So in a delta
    (dx, dy, dw, dh), mirroring left to right changes the sign of dx, and mirroring top to bottom changes the
    sign of dy. Transposition swaps dx with dy, and dw with dh. Another scale changes nothing.
    """
    if view.transposed:
        images = [image.transpose(0, 1) for image in images]
        proposals = [transpose(boxes) for boxes in proposals]
    axes = [axis for axis, mirrored in enumerate((view.upside_down, view.sideways)) if mirrored]
    for axis in axes:
        pairs = zip(proposals, images, strict=True)
        proposals = [flip(boxes, i.shape[axis], vertically=axis == 0) for boxes, i in pairs]
    mirrored = [image.flip(axes) for image in images]
    class_logits, box_deltas = classify_at_scales(model, mirrored, proposals, view.scales)
    deltas = box_deltas.reshape(len(box_deltas), box_deltas.shape[1] // 4, 4)  # (R, K + 1, 4)
    dx, dy, dw, dh = deltas.unbind(-1)
    dx, dy = (-dx if view.sideways else dx), (-dy if view.upside_down else dy)
    deltas = torch.stack([dx, dy, dw, dh], dim=-1)
    return Outputs(class_logits, (transpose(deltas) if view.transposed else deltas).flatten(1))
