"""Average precision by PASCAL VOC's rules, on boxes with continuous edges.

VOC's tools add 1 to widths and heights, which changes IoUs near the threshold. This module does not (design
contract, section 1). On the 30-class test vectors the difference is 2e-4 of mAP.

Legend: see `fastrcnn.metrics`. M points of a curve; T detections of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics.inputs import (
    Bools,
    Floats,
    ImageDetections,
    ImageGroundTruth,
    Ints,
    check_images,
    pairwise_iou,
)

Method = Literal["voc07", "area"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionRecall:
    """The precision-recall curve of one class. Point i is measured on its i + 1 best detections.

    Detections of ignored objects are left out.

    Args:
        recall: (M,) float64, never falling.
        precision: (M,) float64.
        scores: (M,) float64, never rising: the score threshold of each point.
    """

    recall: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class VOCResult:
    """The result of `evaluate_voc`.

    Args:
        mean_ap: mean over the classes with ground truth. NaN if no class has any.
        ap: (K,) float64. NaN for a class without ground truth, 0 for a class without detections.
        curves: K curves. The recall of a class without ground truth is NaN.
        num_gt: (K,) int64, number of objects without difficult ones and crowds.
    """

    mean_ap: float
    ap: npt.NDArray[np.float64]
    curves: tuple[PrecisionRecall, ...]
    num_gt: npt.NDArray[np.int64]


def average_precision(
    recall: npt.ArrayLike, precision: npt.ArrayLike, method: Method = "voc07"
) -> float:
    """Compute the area under a precision-recall curve, by VOC's older or newer rule.

    Both rules read the curve's envelope: the best precision at the same or a higher recall.

    Args:
        recall: (M,), never falling.
        precision: (M,).
        method: ``voc07``: mean of the envelope at recall 0, .1, ... 1 (VOC 2007 to 2009).
            ``area``: exact area under the envelope (VOC 2010 and later).

    Returns:
        The average precision. It is 0 for an empty curve.

    Raises:
        ValueError: the lengths differ, or the method is unknown.

    Example:
        recall (.5, 1), precision (1, .5): voc07 (6 * 1 + 5 * .5) / 11 = .772727, area .75.
    """
    r, p = np.asarray(recall, np.float64), np.asarray(precision, np.float64)
    if r.shape != p.shape or r.ndim != 1:
        raise ValueError(
            f"recall {r.shape} and precision {p.shape}: expected one dimension and equal lengths"
        )
    envelope = np.maximum.accumulate(p[::-1])[::-1]
    envelope = np.append(envelope, 0.0)  # (M + 1,): precision is 0 beyond the last recall
    if method == "voc07":
        # k / 10 is the same double as a recall of k out of 10. k * .1 is not (.30000000000000004).
        levels = np.arange(11) / 10
        return float(envelope[np.searchsorted(r, levels, side="left")].mean())
    if method == "area":
        return float(np.diff(r, prepend=0.0) @ envelope[:-1])
    raise ValueError(f"method {method!r}: expected 'voc07' or 'area'")


def evaluate_voc(
    ground_truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    num_classes: int,
    *,
    iou_threshold: float = 0.5,
    method: Method = "voc07",
) -> VOCResult:
    """Compute average precision for each class, by the rules of the VOC development kit.

    Detections are read from the highest score to the lowest; equal scores keep their order. Each detection is
    matched to the object of its class with the highest IoU. If this IoU is below the threshold, the detection
    is a false positive. Else:
    - the object is difficult, a crowd or an ignored region: the detection is ignored;
    - the object was not matched before: a true positive;
    - the object was matched before: a false positive.

    An IoU equal to the threshold is enough. That is the rule of VOCevaldet.m and COCO; py-faster-rcnn's copy
    asks for more.

    Args:
        ground_truth: N items, also for images without objects.
        detections: N items in the same order, also for images without detections.
        num_classes: K.

    Raises:
        ValueError: the numbers of items differ, or a label is outside 1..K.
    """
    check_images(ground_truth, detections, num_classes)
    ground_truth = [image.with_regions_as_crowds(num_classes) for image in ground_truth]
    num_gt = np.zeros(num_classes, np.int64)
    for image in ground_truth:
        np.add.at(num_gt, image.labels[~image.ignored()] - 1, 1)

    matches = _match_detections(ground_truth, detections, iou_threshold)
    order = np.argsort(-matches.scores, kind="stable")
    order = order[matches.counted[order]]
    curves, ap = [], np.full(num_classes, np.nan)
    for k in range(num_classes):
        rows = order[matches.labels[order] == k + 1]
        curves.append(_curve(matches.objects[rows], matches.scores[rows], int(num_gt[k])))
        if num_gt[k]:
            ap[k] = average_precision(curves[k].recall, curves[k].precision, method)
    mean_ap = float(np.nanmean(ap)) if num_gt.any() else float("nan")
    return VOCResult(mean_ap=mean_ap, ap=ap, curves=tuple(curves), num_gt=num_gt)


def evaluate_map50_95(
    ground_truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    num_classes: int,
) -> float:
    """Compute mean average precision over IoU .5, .55, ... .95, by the exact area under each curve.

    It is near COCO's AP, which reads 101 points of a curve, takes at most 100 detections of a class in an
    image and has another rule for crowds. It takes less time: use it to rank checkpoints.

    Args:
        ground_truth, detections, num_classes: as for `evaluate_voc`.

    Returns:
        The mean. NaN without ground truth.
    """
    measure = partial(evaluate_voc, ground_truth, detections, num_classes, method="area")
    return float(
        np.mean([measure(iou_threshold=iou).mean_ap for iou in np.linspace(0.5, 0.95, 10)])
    )


@dataclass(frozen=True, slots=True)
class _Matches:
    """The detections of all images and the objects they match, in the order given.

    Args:
        labels: (T,).
        scores: (T,).
        objects: (T,) index of the matched object among the objects of all images. -1: no match.
        counted: (T,) False if the matched object is difficult or a crowd.
    """

    labels: Ints
    scores: Floats
    objects: npt.NDArray[np.int64]
    counted: Bools


def _match_detections(
    ground_truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    iou_threshold: float,
) -> _Matches:
    """Match each detection to the object of its class with the highest IoU, if that reaches the threshold."""
    objects, counted = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    offset = 0
    for truth, detected in zip(ground_truth, detections, strict=True):
        matched = np.full(len(detected.boxes), -1)  # (D,)
        ignored = np.zeros(len(detected.boxes), bool)  # (D,)
        if len(truth.boxes) and len(detected.boxes):
            iou = pairwise_iou(detected.boxes, truth.boxes)  # (D, G)
            iou[detected.labels[:, None] != truth.labels[None, :]] = -1
            best = iou.argmax(axis=1)  # the first of equal IoUs, as in the kit
            is_match = iou[np.arange(len(best)), best] >= iou_threshold
            matched[is_match] = best[is_match] + offset
            ignored = is_match & truth.ignored()[best]
        objects.append(matched)
        counted.append(~ignored)
        offset += len(truth.boxes)
    return _Matches(
        labels=np.concatenate([np.zeros(0, np.int64), *(d.labels for d in detections)]),
        scores=np.concatenate([np.zeros(0), *(d.scores for d in detections)]),
        objects=np.concatenate(objects),
        counted=np.concatenate(counted),
    )


def _curve(objects: npt.NDArray[np.int64], scores: Floats, num_gt: int) -> PrecisionRecall:
    """Compute the curve of one class.

    Args:
        objects: (M,) matched objects of the class's detections, highest score first. -1: no match. The first
            detection that matches an object is a true positive.
        scores: (M,).
        num_gt: number of objects of the class.
    """
    first = np.unique(objects, return_index=True)[1]
    correct = np.zeros(len(objects), bool)
    correct[first] = True
    correct &= objects >= 0
    true_positives = np.cumsum(correct, dtype=np.float64)
    return PrecisionRecall(
        recall=true_positives / num_gt if num_gt else np.full(len(objects), np.nan),
        precision=true_positives / np.arange(1, len(objects) + 1),
        scores=scores.astype(np.float64),
    )
