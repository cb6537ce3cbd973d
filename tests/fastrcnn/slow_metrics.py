"""Average precision and recall in plain loops, written from their definitions, to test the fast code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrcnn.metrics import ImageDetections, ImageGroundTruth

Point = tuple[float, float, float]
"""Recall, precision and the score threshold of one point of a curve."""


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
        0.0, min(a[3], b[3]) - max(a[1], b[1])
    )
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    return inner / union if union else 0.0


def flagged(flags: Any, index: int) -> bool:
    return flags is not None and bool(flags[index])


def ranked(found: Sequence[ImageDetections], label: int) -> list[tuple[float, int, list[float]]]:
    """List score, image and box of one class's detections, best first. Equal scores keep their order."""
    queue = [
        (float(image.scores[n]), i, image.boxes[n].astype(float).tolist())
        for i, image in enumerate(found)
        for n in range(len(image.boxes))
        if image.labels[n] == label
    ]
    return sorted(queue, key=lambda entry: -entry[0])  # Python's sort is stable


def slow_curve(
    truth: Sequence[ImageGroundTruth],
    found: Sequence[ImageDetections],
    label: int,
    threshold: float = 0.5,
) -> list[Point]:
    """Compute a curve like VOC's development kit.

    Each detection goes to the object of its class with the highest IoU, even if that is matched already.
    """
    asked = {
        (i, g): not (flagged(t.difficult, g) or flagged(t.crowd, g))
        for i, t in enumerate(truth)
        for g in range(len(t.boxes))
        if t.labels[g] == label
    }
    taken: set[tuple[int, int]] = set()
    points: list[Point] = []
    right = wrong = 0
    for score, i, box in ranked(found, label):
        best, best_iou = None, -1.0
        for j, g in asked:
            if j == i:
                overlap = iou(box, truth[i].boxes[g].astype(float).tolist())
                if overlap > best_iou:
                    best, best_iou = (j, g), overlap
        if best is None or best_iou < threshold:
            wrong += 1
        elif not asked[best]:
            continue
        elif best in taken:
            wrong += 1
        else:
            taken.add(best)
            right += 1
        points.append((right / max(1, sum(asked.values())), right / (right + wrong), score))
    return points


def slow_ap(points: Sequence[Point], method: str) -> float:
    """Compute AP from the best precision at or beyond a recall: the mean over eleven recalls, or the area."""
    if method == "voc07":
        levels = [k / 10 for k in range(11)]
        return sum(max((p for r, p, _ in points if r >= k), default=0.0) for k in levels) / 11
    recalls = sorted({0.0, *(r for r, _, _ in points)})
    return sum(
        (high - low) * max(p for r, p, _ in points if r >= high)
        for low, high in zip(recalls, recalls[1:], strict=False)
    )


def slow_coco_ap(
    truth: Sequence[ImageGroundTruth], found: Sequence[ImageDetections], label: int
) -> float:
    """Compute COCO's AP of one class: the mean of 101 precisions, over IoU .5, .55 ... .95.

    It is NaN if the class has no objects.
    """
    values = []
    for step in range(10):
        threshold = 0.5 + 0.05 * step
        num_gt, verdicts = 0, []
        for t, d in zip(truth, found, strict=True):
            crowd = [flagged(t.crowd, g) for g in range(len(t.boxes))]
            ignored = [crowd[g] or flagged(t.difficult, g) for g in range(len(t.boxes))]
            own = [g for g in range(len(t.boxes)) if t.labels[g] == label]
            num_gt += sum(not ignored[g] for g in own)
            free = set(own)
            for score, _, box in ranked([d], label)[:100]:
                g = _coco_match(box, t, free, ignored, crowd, threshold)
                if g is None:
                    verdicts.append((score, False))
                    continue
                if not crowd[g]:
                    free.remove(g)
                if not ignored[g]:
                    verdicts.append((score, True))
        if not num_gt:
            return float("nan")
        verdicts.sort(key=lambda entry: -entry[0])
        points, right = [], 0
        for n, (score, correct) in enumerate(verdicts, 1):
            right += correct
            points.append((right / num_gt, right / n, score))
        levels = [k * 0.01 for k in range(101)]  # rounds .28 and .57 as pycocotools does
        values.append(
            sum(max((p for r, p, _ in points if r >= k), default=0.0) for k in levels) / 101
        )
    return sum(values) / len(values)


def _coco_match(
    box: Sequence[float],
    truth: ImageGroundTruth,
    free: set[int],
    ignored: Sequence[bool],
    crowd: Sequence[bool],
    threshold: float,
) -> int | None:
    """Find the unmatched object of highest IoU. An ignored object is matched only if no other can be."""
    for kind in (False, True):
        candidates = [
            (_coco_iou(box, truth.boxes[g].astype(float).tolist(), crowd[g]), g)
            for g in free
            if ignored[g] == kind
        ]
        best = max(candidates, default=(0.0, -1))
        if best[0] >= threshold:
            return best[1]
    return None


def _coco_iou(box: Sequence[float], other: Sequence[float], crowd: bool) -> float:
    """Compute the overlap with a crowd: the share of the box that lies in the crowd."""
    if not crowd:
        return iou(box, other)
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def slow_recall(proposals: Sequence[Any], gt_boxes: Sequence[Any], threshold: float) -> float:
    """Compute the share of the objects whose IoU with some proposal is at least the threshold."""
    near = [
        any(iou(p.tolist(), g.tolist()) >= threshold for p in boxes.astype(float))
        for boxes, gt in zip(proposals, gt_boxes, strict=True)
        for g in gt.astype(float)
    ]
    return sum(near) / len(near)
