"""Greedy non-maximum suppression for the boxes of many images, with few waits for the GPU.

A box is removed if its IoU with a kept box of higher score is above the threshold. At exactly the threshold
it is kept (torchvision's rule). Coordinates may be negative.

Legend: N images; M boxes of one image; P proposals of one image, Q of them kept; B boxes of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torchvision.ops import nms

from fastrcnn.transform import image_indices

MOST_AT_ONCE = 100_000
"""Boxes in one call of `nms` on a GPU. It compares all pairs and keeps a bit for each: here 1.25 GB."""
PREFIX = 4096
"""The best boxes of an image that are tried first, where only some kept boxes are asked for."""
FEW = 1000
"""Up to so many boxes of an image, a CPU suppresses all kinds in one call (torchvision's limit)."""


def suppress(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    kinds: Sequence[Tensor] | None,
    iou_threshold: float,
    *,
    most: int | None = None,
) -> list[Tensor]:
    """Select the boxes of each image that are kept.

    A box is judged by boxes with higher scores only. So where `most` boxes are asked for, the best `PREFIX`
    boxes of each image are tried first. All boxes are tried if that leaves too few.

    Args:
        boxes: N tensors (M, 4).
        scores: N tensors (M,).
        kinds: N tensors (M,) int64, not negative, such as labels. A box suppresses only boxes of the same
            kind. None: all boxes are of the same kind.
        iou_threshold: see the top of this module.
        most: the largest number of kept boxes of an image. None: all.

    Returns:
        N tensors of indices (at most M,) int64, highest score first. Equal scores keep their order.
    """
    if kinds is None:
        kinds = [torch.zeros_like(values, dtype=torch.int64) for values in scores]
    sizes = [len(values) for values in scores]
    if most is None or max(sizes, default=0) <= max(PREFIX, 2 * most):
        kept = _suppress_all(boxes, scores, kinds, iou_threshold)
        return [rows[:most] for rows in kept]
    limit = max(PREFIX, 2 * most)
    best = [values.argsort(descending=True, stable=True)[:limit] for values in scores]
    own_boxes, own_scores, own_kinds = (
        [values[rows] for values, rows in zip(part, best, strict=True)]
        for part in (boxes, scores, kinds)
    )
    kept = _suppress_all(own_boxes, own_scores, own_kinds, iou_threshold)
    kept = [rows[own] for rows, own in zip(best, kept, strict=True)]
    short = [i for i, size in enumerate(sizes) if size > limit and len(kept[i]) < most]
    own_boxes, own_scores, own_kinds = ([part[i] for i in short] for part in (boxes, scores, kinds))
    every = _suppress_all(own_boxes, own_scores, own_kinds, iou_threshold)
    for index, rows in zip(short, every, strict=True):
        kept[index] = rows
    return [rows[:most] for rows in kept]


def _suppress_all(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    kinds: Sequence[Tensor],
    iou_threshold: float,
) -> list[Tensor]:
    """Do the work of `suppress` on all boxes: on a CPU image by image, on a GPU together."""
    images = zip(boxes, scores, kinds, strict=True)
    if boxes and boxes[0].device.type == "cpu":
        return [
            _nms_of_kinds(*image, iou_threshold)
            if len(image[1]) <= FEW
            else _nms_kind_by_kind(*image, iou_threshold)
            for image in images
        ]
    kept: list[Tensor] = []
    for first, last in _slices([len(values) for values in scores]):
        one = slice(first, last)
        kept += suppress_together(boxes[one], scores[one], kinds[one], iou_threshold)
    return kept


def _slices(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Cut the list of images into slices (first, last) of at most `MOST_AT_ONCE` boxes. A larger image is
    one slice."""
    cuts, total = [0], 0
    for index, size in enumerate(sizes):
        if total and total + size > MOST_AT_ONCE:
            cuts.append(index)
            total = 0
        total += size
    return list(zip(cuts, [*cuts[1:], len(sizes)], strict=True)) if sizes else []


def suppress_together(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    kinds: Sequence[Tensor],
    iou_threshold: float,
) -> list[Tensor]:
    """Do the work of `suppress` in one call for all images.

    So the host waits for the GPU twice per call, whatever the numbers of images, boxes and kinds.
    """
    sizes = [len(values) for values in scores]
    images = image_indices(sizes, scores[0].device)  # (B,)
    groups = images + len(sizes) * torch.cat([*kinds])
    kept = _nms_of_kinds(torch.cat([*boxes]), torch.cat([*scores]), groups, iou_threshold)
    kept = kept[images[kept].argsort(stable=True)]  # image by image, highest score first in each
    counts = (images[kept, None] == torch.arange(len(sizes), device=kept.device)).sum(dim=0)
    firsts = [0, *accumulate(sizes)]
    split = torch.split(kept, counts.tolist())
    return [indices - first for indices, first in zip(split, firsts, strict=False)]


def _nms_of_kinds(boxes: Tensor, scores: Tensor, kinds: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes (M, 4) of all kinds in one call: each kind is moved to a place where no other kind is.

    The boxes become float64. In float32 the move would round away fractions of a pixel, and the result of an
    image would depend on the other images of the call.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    boxes = boxes.double()
    extent = boxes.max() - boxes.min() + 1  # also right where coordinates are negative
    kept: Tensor = nms(boxes + (kinds * extent)[:, None], scores.double(), iou_threshold)
    return kept


def _nms_kind_by_kind(boxes: Tensor, scores: Tensor, kinds: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes (M, 4) with one call for each kind.

    This is faster on a CPU if there are many boxes, because `nms` compares all pairs of a call.
    """
    boxes, order = boxes.double(), kinds.argsort(stable=True)
    counts = torch.unique_consecutive(kinds[order], return_counts=True)[1]
    kept = (
        torch.cat(
            [
                rows[nms(boxes[rows], scores[rows].double(), iou_threshold)]
                for rows in torch.split(order, counts.tolist())
            ]
        )
        .sort()
        .values
    )
    return kept[scores[kept].argsort(descending=True, stable=True)]


def distinct(proposals: Sequence[Tensor], iou_threshold: float | None) -> list[Tensor]:
    """Remove each proposal whose IoU with a kept proposal of better rank is above `iou_threshold`.

    Args:
        proposals: N tensors (P, 4), best first. P may be 0.
        iou_threshold: None keeps all proposals.

    Returns:
        N tensors (Q, 4), Q <= P, in the same order as before.
    """
    if iou_threshold is None:
        return list(proposals)
    # The scores P, P - 1, ..., 1 give the order of the ranks.
    scores = [torch.arange(len(b), 0, -1, device=b.device, dtype=b.dtype) for b in proposals]
    kept = suppress(proposals, scores, None, iou_threshold)
    return [boxes[indices] for boxes, indices in zip(proposals, kept, strict=True)]


def true_indices(keep: Tensor, sizes: Sequence[int]) -> tuple[Tensor, list[int]]:
    """List the indices at which a mask over the rows of all images is True.

    The host waits for a GPU once, however many images there are.

    Args:
        keep: (sum of sizes,) bool, image by image.
        sizes: N numbers of rows.

    Returns:
        index: (n,) int64, rising.
        counts: N numbers of True rows; their sum is n.
    """
    if not sizes:
        return torch.zeros(0, dtype=torch.int64, device=keep.device), []
    counts = torch.stack([mask.sum() for mask in torch.split(keep, list(sizes))]).tolist()
    return torch.nonzero_static(keep, size=sum(counts))[:, 0], counts
