"""Greedy non-maximum suppression for the boxes of many images, with few waits for the GPU.

A box is removed if its IoU with a kept box of higher score is above the threshold. At exactly the threshold
it is kept (torchvision's rule).

Legend: N images; M boxes of one image; P proposals of one image, Q of them kept.
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
    """Select the boxes of each image that are kept.

    Args:
        boxes: N tensors (M, 4).
        scores: N tensors (M,).
        kinds: N tensors (M,) int64, not negative, such as labels. A box suppresses only boxes of the same
            kind. None: all boxes are of the same kind.
        iou_threshold: see the top of this module.

    Returns:
        N tensors of indices (at most M,) int64, highest score first.
    """
    if kinds is None:
        kinds = [torch.zeros_like(each, dtype=torch.int64) for each in scores]
    if boxes and boxes[0].is_cuda:
        return suppress_together(boxes, scores, kinds, iou_threshold)
    return [batched_nms(*each, iou_threshold) for each in zip(boxes, scores, kinds, strict=True)]


def suppress_together(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    kinds: Sequence[Tensor],
    iou_threshold: float,
) -> list[Tensor]:
    """Do the work of `suppress` in one call for all images.

    So the host waits for the GPU twice per call, not twice per image. torchvision keeps groups of boxes apart
    by moving each group to another place. In float32 that would round away fractions of a pixel, and the
    result of an image would depend on the other images. So the boxes are float64 here.
    """
    sizes = [len(each) for each in scores]
    images = torch.repeat_interleave(
        torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64)
    ).to(scores[0].device, non_blocking=True)
    groups = images + len(sizes) * torch.cat([*kinds])
    values = torch.cat([*scores])
    kept = batched_nms(torch.cat([*boxes]).double(), values.double(), groups, iou_threshold)
    kept = kept[images[kept].argsort(stable=True)]  # image by image, highest score first in each
    counts = (images[kept, None] == torch.arange(len(sizes), device=kept.device)).sum(dim=0)
    firsts = [0, *accumulate(sizes)]
    split = torch.split(kept, counts.tolist())
    return [indices - first for indices, first in zip(split, firsts, strict=False)]


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

    The host waits for a GPU twice, however many images there are.

    Args:
        keep: (sum of sizes,) bool, image by image.
        sizes: N numbers of rows.

    Returns:
        index: (n,) int64, rising.
        counts: N numbers of True rows; their sum is n.
    """
    index = keep.nonzero()[:, 0]
    if not sizes:
        return index, []
    counts = torch.stack([mask.sum() for mask in torch.split(keep, list(sizes))])
    return index, counts.tolist()
