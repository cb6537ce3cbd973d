"""How many objects the proposals cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastrcnn.metrics.inputs import Floats, pairwise_iou


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalRecall:
    """What `proposal_recall` measured; NaN everywhere where there is no ground truth.

    Args:
        recalls: share of objects covered, one for each IoU threshold asked for.
        average_recall: twice the integral of recall over IoU from .5 to 1.
        num_gt: objects.
    """

    recalls: tuple[float, ...]
    average_recall: float
    num_gt: int


def proposal_recall(
    proposals: Sequence[Floats],
    gt_boxes: Sequence[Floats],
    iou_thresholds: Sequence[float] = (0.5, 0.7),
) -> ProposalRecall:
    """The share of objects with a proposal near: the ceiling of any detector on these proposals.

    Average recall is Hosang et al.'s (What makes for effective detection proposals?): recall
    integrated over IoU from .5 to 1, times 2; an object whose best IoU is o adds 2 max(o - .5, 0).

    Args:
        proposals: N arrays (P, 4).
        gt_boxes: N arrays (G, 4).
        iou_thresholds: an object counts as found at IoU >= threshold.
    """
    if len(proposals) != len(gt_boxes):
        raise ValueError(f"{len(proposals)} images with proposals, {len(gt_boxes)} with objects")
    best = [  # per image (G,): the IoU of the nearest proposal, 0 without proposals
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
