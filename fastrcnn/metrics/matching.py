"""Match detections to objects, for counts at a threshold and for calibration.

Legend: see `fastrcnn.metrics`. T detections and O objects of all images, in the order given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """The detections and objects of all images, and which of them belong together.

    Ignored objects are not among the objects: difficult ones, crowds and ignored regions. Detections that
    only fit an ignored object are left out too.

    Args:
        images: (T,) index of the image.
        labels: (T,) class of the detection, 1..K.
        scores: (T,) float64.
        boxes: (T, 4).
        correct: (T,) whether the detection has an object of its class to itself.
        objects: (T,) index of that object, 0..O-1. -1: there is none.
        class_iou: (T,) highest IoU with an object of the detection's class. 0: there is none.
        other_iou: (T,) highest IoU with an object of another class. 0: there is none.
        other_labels: (T,) the class of that object. 0: there is none.
        other_objects: (T,) index of that object, 0..O-1. -1: there is none.
        object_images: (O,) index of the image.
        object_labels: (O,) class of the object, 1..K.
        object_boxes: (O, 4).
    """

    images: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    boxes: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_]
    objects: npt.NDArray[np.int64]
    class_iou: npt.NDArray[np.float64]
    other_iou: npt.NDArray[np.float64]
    other_labels: npt.NDArray[np.int64]
    other_objects: npt.NDArray[np.int64]
    object_images: npt.NDArray[np.int64]
    object_labels: npt.NDArray[np.int64]
    object_boxes: npt.NDArray[np.float64]

    def of_images(self, first: int, last: int) -> Matches:
        """Select the images first..last - 1. Indices of images stay; those of objects count from 0 again."""
        rows = slice(*np.searchsorted(self.images, (first, last)).tolist())
        objects = slice(*np.searchsorted(self.object_images, (first, last)).tolist())
        parts = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if field.name in ("objects", "other_objects"):
                values = np.where(values[rows] < 0, -1, values[rows] - objects.start)
            else:
                values = values[objects if field.name.startswith("object_") else rows]
            parts[field.name] = values
        return Matches(**parts)


def match_boxes(
    ground_truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    num_classes: int,
    *,
    iou_threshold: float = 0.5,
) -> Matches:
    """Match detections to objects of their class, from the highest score to the lowest.

    A detection gets the object with the highest IoU among those that no better detection got, if this IoU
    reaches the threshold. So a second detection of one object is false. A detection without an object is left
    out if it fits an ignored object: the IoU with a difficult one reaches the threshold, or half of the
    detection lies in a crowd or an ignored region (COCO's rule for crowds).

    Args:
        ground_truth: N items, also for images without objects.
        detections: N items in the same order, also for images without detections.
        num_classes: K.

    Raises:
        ValueError: the numbers of items differ, or a label is outside 1..K.
    """
    check_images(ground_truth, detections, num_classes)
    parts: list[dict[str, npt.NDArray[Any]]] = []
    num_objects = 0
    for index, (truth, detected) in enumerate(zip(ground_truth, detections, strict=True)):
        part = _match_image(truth, detected, num_classes, iou_threshold)
        for name in ("objects", "other_objects"):
            part[name] = np.where(part[name] >= 0, part[name] + num_objects, -1)
        part["images"] = np.full(len(part["labels"]), index)
        part["object_images"] = np.full(len(part["object_labels"]), index)
        num_objects += len(part["object_labels"])
        parts.append(part)
    empty = _match_image(*_nothing(), num_classes, iou_threshold)
    empty |= {"images": np.zeros(0, np.int64), "object_images": np.zeros(0, np.int64)}
    joined = {name: np.concatenate([p[name] for p in (empty, *parts)]) for name in empty}
    return Matches(**joined)


def _nothing() -> tuple[ImageGroundTruth, ImageDetections]:
    """Give an image without objects and detections. It fixes the types of the arrays."""
    boxes, labels = np.zeros((0, 4)), np.zeros(0, np.int64)
    return (
        ImageGroundTruth(boxes=boxes, labels=labels),
        ImageDetections(boxes=boxes, labels=labels, scores=np.zeros(0)),
    )


def _match_image(
    truth: ImageGroundTruth, detected: ImageDetections, num_classes: int, threshold: float
) -> dict[str, npt.NDArray[Any]]:
    """Match the detections of one image. Indices of objects count from 0 in the image."""
    counts = ~truth.ignored()
    boxes, labels = truth.boxes[counts], truth.labels[counts]
    iou = pairwise_iou(detected.boxes, boxes)  # (D, G)
    same = detected.labels[:, None] == labels[None, :]
    class_iou, other_iou = np.where(same, iou, 0.0), np.where(same, 0.0, iou)
    objects = _assign(class_iou, detected.scores, threshold)
    ignored = (objects < 0) & _fits_ignored(truth, detected, num_classes, threshold)
    nearest = other_iou.argmax(axis=1) if len(labels) else np.zeros(len(detected.labels), int)
    nearest_labels = labels[nearest] if len(labels) else np.zeros(len(detected.labels), np.int64)
    best_other = other_iou.max(axis=1, initial=0.0)
    rows = {
        "labels": detected.labels.astype(np.int64),
        "scores": detected.scores.astype(np.float64),
        "boxes": detected.boxes.astype(np.float64),
        "correct": objects >= 0,
        "objects": objects,
        "class_iou": class_iou.max(axis=1, initial=0.0),
        "other_iou": best_other,
        "other_labels": np.where(best_other > 0, nearest_labels, 0).astype(np.int64),
        "other_objects": np.where(best_other > 0, nearest, -1).astype(np.int64),
    }
    return {name: values[~ignored] for name, values in rows.items()} | {
        "object_labels": labels.astype(np.int64),
        "object_boxes": boxes.astype(np.float64),
    }


def _assign(iou: Floats, scores: Floats, threshold: float) -> npt.NDArray[np.int64]:
    """Give each detection the free object of the highest IoU, best score first. -1: there is none.

    Args:
        iou: (D, G); 0 for objects of other classes.
        scores: (D,).
    """
    objects = np.full(len(scores), -1, np.int64)
    candidates = np.flatnonzero(iou.max(axis=1, initial=0.0) >= threshold)
    free = iou.astype(np.float64, copy=True)
    for row in candidates[np.argsort(-scores[candidates], kind="stable")]:
        best = int(free[row].argmax())
        if free[row, best] >= threshold:
            objects[row] = best
            free[:, best] = -1.0
    return objects


def _fits_ignored(
    truth: ImageGroundTruth, detected: ImageDetections, num_classes: int, threshold: float
) -> Bools:
    """Mark the detections (D,) that fit an ignored object of their class, or an ignored region."""
    whole = truth.with_regions_as_crowds(num_classes)
    ignored = whole.ignored()
    boxes, labels = whole.boxes[ignored], whole.labels[ignored]
    if not len(boxes) or not len(detected.boxes):
        return np.zeros(len(detected.boxes), bool)
    crowd = np.zeros(len(whole.boxes), bool) if whole.crowd is None else whole.crowd
    overlap = np.where(
        crowd[ignored], _share_inside(detected.boxes, boxes), pairwise_iou(detected.boxes, boxes)
    )
    limit = np.where(crowd[ignored], 0.5, threshold)
    fits = (overlap >= limit) & _same_class(detected.labels, labels)  # (D, ignored objects)
    any_fits: Bools = np.any(fits, axis=1)
    return any_fits


def _same_class(labels: Ints, others: Ints) -> Bools:
    same: Bools = labels[:, None] == others[None, :]
    return same


def _share_inside(boxes: Floats, regions: Floats) -> npt.NDArray[np.float64]:
    """Compute the share (A, B) of each box (A, 4) that lies in each region (B, 4). 0 without an area."""
    a, b = boxes.astype(np.float64)[:, None], regions.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inside = np.maximum(sides, 0).prod(axis=-1)
    area = np.broadcast_to((a[..., 2:] - a[..., :2]).prod(axis=-1), inside.shape)
    share: npt.NDArray[np.float64] = np.divide(
        inside, area, out=np.zeros_like(inside), where=area > 0
    )
    return share
