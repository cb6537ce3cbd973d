"""Average precision as PASCAL VOC measures it, on continuous boxes.

VOC's own tools add 1 to widths and heights, which moves IoUs near the threshold; here nothing does
(design contract, section 1). On the 30-class test vectors the difference is 2e-4 of mAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """One class's curve: point i keeps the i + 1 best detections that count.

    Args:
        recall: (M,) float64, never falling.
        precision: (M,) float64.
        scores: (M,) float64, never rising: the threshold that gives the point.
    """

    recall: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class VOCResult:
    """What `evaluate_voc` measured.

    Args:
        mean_ap: over the classes that have ground truth; NaN where none has.
        ap: (K,) float64; NaN for a class without ground truth, 0 for one that was never detected.
        curves: K curves; that of a class without ground truth has NaN recall.
        num_gt: (K,) int64, objects asked for: difficult and crowd ones are not.
    """

    mean_ap: float
    ap: npt.NDArray[np.float64]
    curves: tuple[PrecisionRecall, ...]
    num_gt: npt.NDArray[np.int64]


def average_precision(
    recall: npt.ArrayLike, precision: npt.ArrayLike, method: Method = "voc07"
) -> float:
    """The area under a precision-recall curve, by VOC's older or newer rule.

    Both read the curve's envelope: the best precision at that recall or a higher one.

    Args:
        recall: (M,), never falling.
        precision: (M,).
        method: ``voc07``: mean of the envelope at recall 0, .1, ... 1 (VOC 2007 to 2009).
            ``area``: its exact area (VOC 2010 on).

    Returns:
        0 for an empty curve.

    Raises:
        ValueError: unequal lengths, or an unknown method.

    Example:
        recall (.5, 1), precision (1, .5): voc07 (6 * 1 + 5 * .5) / 11 = .772727, area .75.
    """
    r, p = np.asarray(recall, np.float64), np.asarray(precision, np.float64)
    if r.shape != p.shape or r.ndim != 1:
        raise ValueError(f"recall {r.shape} and precision {p.shape} are not one curve")
    envelope = np.maximum.accumulate(p[::-1])[::-1]
    envelope = np.append(envelope, 0.0)  # (M+1,): nothing beyond the last recall
    if method == "voc07":
        # k / 10 is the same double as "k of 10 found"; k * .1 is not (.30000000000000004).
        levels = np.arange(11) / 10
        return float(envelope[np.searchsorted(r, levels, side="left")].mean())
    if method == "area":
        return float(np.diff(r, prepend=0.0) @ envelope[:-1])
    raise ValueError(f"method {method!r} is neither 'voc07' nor 'area'")


def evaluate_voc(
    ground_truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    num_classes: int,
    *,
    iou_threshold: float = 0.5,
    method: Method = "voc07",
) -> VOCResult:
    """Average precision per class, by the rules of the VOC development kit.

    In order of falling score (ties: in the order given), a detection takes the object of its class
    that it overlaps most. IoU >= threshold: a true positive the first time the object is taken, a
    false positive after that, left out of account where the object is difficult or a crowd. Below:
    a false positive. `>=` is the rule of VOCevaldet.m and COCO; py-faster-rcnn's copy has `>`.

    Args:
        ground_truth, detections: N each, item i of both for the same image; images without objects
            or without detections included.
        num_classes: K.

    Raises:
        ValueError: another number of images, or a label outside 1..K.
    """
    check_images(ground_truth, detections, num_classes)
    num_gt = np.zeros(num_classes, np.int64)
    for image in ground_truth:
        np.add.at(num_gt, image.labels[~image.ignored()] - 1, 1)

    matches = _match(ground_truth, detections, iou_threshold)
    order = np.argsort(-matches.scores, kind="stable")
    order = order[matches.counted[order]]
    curves, ap = [], np.full(num_classes, np.nan)
    for k in range(num_classes):
        mine = order[matches.labels[order] == k + 1]
        curves.append(_curve(matches.objects[mine], matches.scores[mine], int(num_gt[k])))
        if num_gt[k]:
            ap[k] = average_precision(curves[k].recall, curves[k].precision, method)
    mean_ap = float(np.nanmean(ap)) if num_gt.any() else float("nan")
    return VOCResult(mean_ap=mean_ap, ap=ap, curves=tuple(curves), num_gt=num_gt)


@dataclass(frozen=True, slots=True)
class _Matches:
    """Every detection of every image, in the order given; T is their number.

    Args:
        labels: (T,). scores: (T,).
        objects: (T,) number of the object it takes, counted over all images; -1 for none.
        counted: (T,) False where that object is difficult or a crowd.
    """

    labels: Ints
    scores: Floats
    objects: npt.NDArray[np.int64]
    counted: Bools


def _match(
    ground_truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    iou_threshold: float,
) -> _Matches:
    objects, counted = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    offset = 0
    for truth, found in zip(ground_truth, detections, strict=True):
        taken = np.full(len(found.boxes), -1)  # (D,)
        unasked = np.zeros(len(found.boxes), bool)  # (D,)
        if len(truth.boxes) and len(found.boxes):
            iou = pairwise_iou(found.boxes, truth.boxes)  # (D, G)
            iou[found.labels[:, None] != truth.labels[None, :]] = -1
            best = iou.argmax(axis=1)  # the first of equals, as in the kit
            near = iou[np.arange(len(best)), best] >= iou_threshold
            taken[near] = best[near] + offset
            unasked = near & truth.ignored()[best]
        objects.append(taken)
        counted.append(~unasked)
        offset += len(truth.boxes)
    return _Matches(
        labels=np.concatenate([np.zeros(0, np.int64), *(d.labels for d in detections)]),
        scores=np.concatenate([np.zeros(0), *(d.scores for d in detections)]),
        objects=np.concatenate(objects),
        counted=np.concatenate(counted),
    )


def _curve(objects: npt.NDArray[np.int64], scores: Floats, num_gt: int) -> PrecisionRecall:
    """The curve of one class's detections, best first; the first to take an object is right."""
    first = np.unique(objects, return_index=True)[1]
    right = np.zeros(len(objects), bool)
    right[first] = True
    right &= objects >= 0
    true_positives = np.cumsum(right, dtype=np.float64)
    return PrecisionRecall(
        recall=true_positives / num_gt if num_gt else np.full(len(objects), np.nan),
        precision=true_positives / np.arange(1, len(objects) + 1),
        scores=scores.astype(np.float64),
    )
