"""Operating points of a detector on labelled images, and what is right, wrong and missed there.

All functions read the result of `match_boxes`. Legend: see `fastrcnn.metrics`. T detections and O objects of
all images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics.inputs import Bools, Floats
from fastrcnn.metrics.matching import Matches
from fastrcnn.metrics.operating import threshold_after, thresholds_of

PointKind = Literal["best_f1", "precision", "recall"]
KINDS = ("tp", "fp", "fn")
"""True positive, false positive, false negative. `Outcomes.kinds` holds their positions."""
TRUE, FALSE, MISSED = range(3)
DEFAULT_POINT = 0.5
"""The threshold of a class that has no operating point."""
_NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A threshold for the scores of one class, and what the detector does at this threshold.

    All numbers are NaN if no threshold gives what was asked for, or if the class has no objects.
    """

    label: int
    """The class, 1..K."""
    kind: PointKind
    """`best_f1`: the highest F1. `precision`: the highest recall with at least the precision asked for.
    `recall`: the highest precision with at least the recall asked for."""
    threshold: float
    """Detections with at least this score count."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Every detection and every missed object of some images: R rows, image by image.

    An object that only a detection below the threshold has gives two rows: the detection is true and not
    above, and the object is missed. So the rows that are `above` are what a person sees at the threshold.

    Args:
        images: (R,) index of the image.
        kinds: (R,) `TRUE`, `FALSE` or `MISSED`.
        labels: (R,) class of the detection, or of the missed object.
        scores: (R,) NaN for a missed object.
        boxes: (R, 4).
        ious: (R,) IoU with the object that `gt_labels` names, else the highest with any object. NaN for a
            missed object.
        gt_labels: (R,) class of the object. For a false detection: the class of the object that it overlaps
            enough. 0: there is none.
        above: (R,) whether the score reaches the threshold. True for a missed object.
    """

    images: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    boxes: npt.NDArray[np.float64]
    ious: npt.NDArray[np.float64]
    gt_labels: npt.NDArray[np.int64]
    above: npt.NDArray[np.bool_]


def operating_points(
    matches: Matches,
    num_classes: int,
    *,
    at_precision: float | None = None,
    at_recall: float | None = None,
) -> tuple[OperatingPoint, ...]:
    """Measure the operating points of each class: the best F1, and those that are asked for.

    A threshold lies midway between two scores, so that rounding on another machine moves no detection across.
    Among equally good thresholds, the highest counts.

    Args:
        num_classes: K.
        at_precision: the lowest precision wanted, above 0 and up to 1.
        at_recall: the lowest recall wanted, above 0 and up to 1.

    Returns:
        The points by class, `best_f1` first.

    Example:
        Scores .9 (true), .8 (false), .7 (true), 2 objects. Precision: 1, 1/2, 2/3. Recall: 1/2, 1/2, 1. Best
        F1: .8 from .7 on. Precision .75: from .85 on. Recall .5: from .85 on, where precision is higher.
    """
    points = []
    for label in range(1, num_classes + 1):
        rows = matches.labels == label
        num_objects = int(np.count_nonzero(matches.object_labels == label))
        curve = _curve(matches.scores[rows], matches.correct[rows], num_objects)
        points.append(_point(label, "best_f1", curve, curve.f1, curve.f1 > 0))
        if at_precision is not None:
            fits = (curve.precision >= at_precision) & (curve.recall > 0)
            points.append(_point(label, "precision", curve, curve.recall, fits))
        if at_recall is not None:
            fits = curve.recall >= at_recall
            points.append(_point(label, "recall", curve, curve.precision, fits))
    return tuple(points)


def best_thresholds(points: tuple[OperatingPoint, ...]) -> npt.NDArray[np.float64]:
    """Give the threshold (K,) of the best F1 of each class; `DEFAULT_POINT` for a class without one."""
    best = np.array([point.threshold for point in points if point.kind == "best_f1"], np.float64)
    return np.where(np.isnan(best), DEFAULT_POINT, best)


@dataclass(frozen=True, slots=True)
class _Curve:
    """One class. Point i counts the detections down to the i-th different score, the highest first."""

    thresholds: Floats
    precision: Floats
    recall: Floats
    f1: Floats


def _curve(scores: Floats, correct: Bools, num_objects: int) -> _Curve:
    """Count the detections of one class from the highest score down. Empty without objects."""
    if not num_objects:
        scores, correct = scores[:0], correct[:0]
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True)[: len(ranked)])
    true, total = np.cumsum(correct[order])[last], last + 1
    return _Curve(
        thresholds=np.array([threshold_after(ranked, place) for place in last.tolist()]),
        precision=true / total,
        recall=true / max(num_objects, 1),
        f1=2 * true / (total + num_objects),
    )


def _point(label: int, kind: PointKind, curve: _Curve, good: Floats, fits: Bools) -> OperatingPoint:
    """Choose the point that fits with the highest value of `good`."""
    numbers = (_NAN, _NAN, _NAN, _NAN)
    if fits.any():
        best = int(np.where(fits, good, -1.0).argmax())
        columns = (curve.thresholds, curve.precision, curve.recall, curve.f1)
        numbers = tuple(float(column[best]) for column in columns)  # type: ignore[assignment]
    threshold, precision, recall, f1 = numbers
    return OperatingPoint(
        label=label, kind=kind, threshold=threshold, precision=precision, recall=recall, f1=f1
    )


def outcomes(matches: Matches, thresholds: Floats, *, iou_threshold: float = 0.5) -> Outcomes:
    """List every detection and every missed object.

    Args:
        thresholds: (K,), one for each class.
        iou_threshold: IoU from which a false detection overlaps an object enough: one of another class was
            mistaken for this class; one of its class already has a better detection. The object with the
            higher IoU counts.
    """
    above = matches.scores >= thresholds_of(matches, thresholds)
    missed = _missed(matches, above)
    other = mistaken(matches, iou_threshold)
    second = (matches.class_iou >= iou_threshold) & ~other
    gt_labels = np.where(matches.correct | second, matches.labels, 0)
    gt_labels = np.where(other, matches.other_labels, gt_labels)
    ious = np.maximum(matches.class_iou, matches.other_iou)
    ious[second] = matches.class_iou[second]
    ious[matches.correct] = _pair_iou(
        matches.boxes[matches.correct], matches.object_boxes[matches.objects[matches.correct]]
    )
    nan, count = np.full(len(missed), _NAN), len(missed)
    images = np.concatenate([matches.images, matches.object_images[missed]])
    order = np.argsort(images, kind="stable")
    missed_labels = matches.object_labels[missed]
    return Outcomes(
        images=images[order],
        kinds=np.append(np.where(matches.correct, TRUE, FALSE), np.full(count, MISSED))[order],
        labels=np.append(matches.labels, missed_labels)[order],
        scores=np.append(matches.scores, nan)[order],
        boxes=np.concatenate([matches.boxes, matches.object_boxes[missed]])[order],
        ious=np.append(ious, nan)[order],
        gt_labels=np.append(gt_labels, missed_labels)[order],
        above=np.append(above, np.ones(count, bool))[order],
    )


def confusion(
    matches: Matches, thresholds: Floats, num_classes: int, *, iou_threshold: float = 0.5
) -> npt.NDArray[np.int64]:
    """Count what objects were taken for, (K + 1, K + 1). Row: class of the object. Column: class given.

    Index 0 is the background. Each detection above the threshold counts once: in the row of its class if it
    has an object, in the row of another class if it overlaps an object of that class enough, else in the row
    of the background. Each object that no such detection has or overlaps counts once in column 0.

    Args:
        thresholds, iou_threshold: as for `outcomes`.
        num_classes: K.
    """
    above = matches.scores >= thresholds_of(matches, thresholds)
    other = mistaken(matches, iou_threshold)
    rows = np.where(matches.correct, matches.labels, np.where(other, matches.other_labels, 0))
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(counts, (rows[above], matches.labels[above]), 1)
    unseen = np.ones(len(matches.object_labels), bool)
    unseen[matches.objects[matches.correct & above]] = False
    unseen[matches.other_objects[other & above]] = False
    np.add.at(counts[:, 0], matches.object_labels[unseen], 1)
    return counts


def _missed(matches: Matches, above: Bools) -> npt.NDArray[np.int64]:
    """Give the indices of the objects that no detection above the threshold has."""
    missed = np.ones(len(matches.object_labels), bool)
    missed[matches.objects[matches.correct & above]] = False
    return np.flatnonzero(missed)


def mistaken(matches: Matches, iou_threshold: float) -> Bools:
    """Mark the false detections (T,) that overlap an object of another class more than any of their class."""
    marked: Bools = (
        ~matches.correct
        & (matches.other_iou >= iou_threshold)
        & (matches.other_iou > matches.class_iou)
    )
    return marked


def _pair_iou(boxes: Floats, others: Floats) -> npt.NDArray[np.float64]:
    """Compute the IoU (A,) of each box (A, 4) with the other (A, 4) of the same index."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, others)]
    union = areas[0] + areas[1] - intersection
    iou: npt.NDArray[np.float64] = np.divide(
        intersection, union, out=np.zeros_like(union), where=union > 0
    )
    return iou
