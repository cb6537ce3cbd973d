"""Greedy non-maximum suppression of the boxes of many images, without waiting for a GPU image by image.

N images, M boxes of one. A box goes where its IoU with a better-scored one that stays is above the threshold
(torchvision's rule: at the threshold it stays).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torchvision.ops import batched_nms


def suppress(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    kinds: Sequence[Tensor] | None,
    iou_threshold: float,
) -> list[Tensor]:
    """Which boxes of each image stay.

    Args:
        boxes: N of (M, 4).
        scores: N of (M,).
        kinds: N of (M,) int64, not negative: boxes suppress only their own kind. None: all are of one.

    Returns:
        N of indices (<= M,) int64, by falling score.
    """
    if kinds is None:
        kinds = [torch.zeros_like(own, dtype=torch.int64) for own in scores]
    if boxes and boxes[0].is_cuda:
        return suppress_together(boxes, scores, kinds, iou_threshold)
    return [batched_nms(*each, iou_threshold) for each in zip(boxes, scores, kinds, strict=True)]


def suppress_together(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    kinds: Sequence[Tensor],
    iou_threshold: float,
) -> list[Tensor]:
    """`suppress` in one call for all images: the host waits twice, not twice an image.

    Images and kinds are kept apart by moving them (torchvision's trick), which in float32 would cost the
    boxes their fractions of a pixel, and an image would hang on its company; so it is done in float64.
    """
    sizes = [len(own) for own in scores]
    images = torch.repeat_interleave(
        torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64)
    ).to(scores[0].device, non_blocking=True)
    groups = images + len(sizes) * torch.cat([*kinds])
    values = torch.cat([*scores])
    kept = batched_nms(torch.cat([*boxes]).double(), values.double(), groups, iou_threshold)
    kept = kept[images[kept].argsort(stable=True)]  # image by image, each by falling score
    counts = (images[kept, None] == torch.arange(len(sizes), device=kept.device)).sum(dim=0)
    firsts = [0, *accumulate(sizes)]
    split = torch.split(kept, counts.tolist())
    return [own - first for own, first in zip(split, firsts, strict=False)]


def distinct(proposals: Sequence[Tensor], iou_threshold: float | None) -> list[Tensor]:
    """Leave out each proposal whose IoU with a better-ranked one is above `iou_threshold`.

    Args:
        proposals: N of (P, 4), best first; P may be 0.
        iou_threshold: None keeps all of them.

    Returns:
        N of (Q, 4), Q <= P, in the order they had.
    """
    if iou_threshold is None:
        return list(proposals)
    ranks = [  # falling score: the order of the ranks
        torch.arange(len(own), 0, -1, device=own.device, dtype=own.dtype) for own in proposals
    ]
    kept = suppress(proposals, ranks, None, iou_threshold)
    return [own[chosen] for own, chosen in zip(proposals, kept, strict=True)]


def choose(keep: Tensor, sizes: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Indices (n,) of the True ones of `keep` (sum of sizes,), and how many of them each image has.

    The host waits for a GPU twice, however many images there are.
    """
    index = keep.nonzero()[:, 0]
    if not sizes:
        return index, []
    counts = torch.stack([own.sum() for own in torch.split(keep, list(sizes))])
    return index, counts.tolist()
