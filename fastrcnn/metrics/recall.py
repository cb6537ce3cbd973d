"""Recall of proposals: the share of the objects that they cover.

Legend: N images; P proposals and G ground-truth objects of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastrcnn.metrics.inputs import Floats, pairwise_iou


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalRecall:
    """The result of `proposal_recall`. Without ground truth all recalls are NaN.

    Args:
        recalls: share of the covered objects, one number for each IoU threshold.
        average_recall: twice the integral of recall over IoU from .5 to 1.
        num_gt: number of objects.
    """

    recalls: tuple[float, ...]
    average_recall: float
    num_gt: int


def proposal_recall(
    proposals: Sequence[Floats],
    gt_boxes: Sequence[Floats],
    iou_thresholds: Sequence[float] = (0.5, 0.7),
) -> ProposalRecall:
    """Compute the share of the objects that a proposal covers. It limits every detector on these proposals.

    Average recall is defined by Hosang et al. (What makes for effective detection proposals?): recall
    integrated over IoU from .5 to 1, times 2. An object whose best IoU is o contributes 2 max(o - .5, 0).

    Args:
        proposals: N arrays (P, 4).
        gt_boxes: N arrays (G, 4), in the same order.
        iou_thresholds: an object is covered if the IoU with some proposal is at least the threshold.

    Raises:
        ValueError: the numbers of arrays differ.
    """
    if len(proposals) != len(gt_boxes):
        raise ValueError(
            f"{len(proposals)} images with proposals, {len(gt_boxes)} with objects: expected the"
            " same images in both"
        )
    best = [  # for each image (G,): IoU of the nearest proposal, or 0 without proposals
        pairwise_iou(gt, boxes).max(axis=1, initial=0.0)
        for boxes, gt in zip(proposals, gt_boxes, strict=True)
    ]
    iou = np.concatenate([np.zeros(0), *best])  # (all G,)
    if not len(iou):
        nan = float("nan")
        return ProposalRecall(recalls=(nan,) * len(iou_thresholds), average_recall=nan, num_gt=0)
    return ProposalRecall(
        recalls=tuple(float((iou >= threshold).mean()) for threshold in iou_thresholds),
        average_recall=float(2 * np.maximum(iou - 0.5, 0).mean()),
        num_gt=len(iou),
    )
