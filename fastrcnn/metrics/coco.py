"""Average precision and recall by COCO's rules. pycocotools computes all of them.

Legend: see `fastrcnn.metrics`. A is any number of boxes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fastrcnn.metrics.inputs import (
    Bools,
    Floats,
    ImageDetections,
    ImageGroundTruth,
    check_images,
)

MOST_DETECTIONS = 100
"""COCO's limit for the detections of a class in an image (cocoeval, maxDets)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class COCOResult:
    """The result of `evaluate_coco`. A number without ground truth to measure it on is NaN.

    Args:
        ap: average precision, mean over IoU .5, .55, ... .95.
        ap50, ap75: average precision at IoU .5 and at IoU .75.
        ap_small, ap_medium, ap_large: `ap` for objects below 32^2, up to 96^2 and above 96^2 square pixels.
        ar_1, ar_10, ar_100: average recall with at most that many detections of a class in an image.
        ap_per_class: (K,) float64, `ap` of each class.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ap_per_class: npt.NDArray[np.float64]


def evaluate_coco(
    ground_truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    num_classes: int,
    *,
    most_detections: int = MOST_DETECTIONS,
) -> COCOResult:
    """Compute COCO's box metrics, with at most 100 detections of a class in an image, or `most_detections`.

    Crowds follow COCO's rule, and so do ignored regions: each is a crowd of every class. COCO has no
    difficult objects. Here they are ignored: a missed one is no mistake, and neither is a detection of one.

    Args:
        ground_truth: N items, also for images without objects.
        detections: N items in the same order, also for images without detections. Detections with equal
            scores keep their order.
        num_classes: K.
        most_detections: detections of a class in an image that count, best first, instead of COCO's 100.
            `ar_100` then has this number too.

    Raises:
        ValueError: the numbers of items differ, or a label is outside 1..K.
    """
    check_images(ground_truth, detections, num_classes)
    if not ground_truth:
        nan = float("nan")
        return _result([nan] * 9, np.full(num_classes, nan))
    # pycocotools prints its progress. These lines are dropped.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _BoxEvaluation(
            _dataset(
                [_truth_rows(image.with_regions_as_crowds(num_classes)) for image in ground_truth],
                num_classes,
            ),
            _dataset([_detection_rows(image) for image in detections], num_classes),
            iouType="bbox",
        )
        evaluation.params.maxDets = [1, 10, most_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    # Axes: IoU, recall, K, area range, detections per image. -1: the class has no ground truth.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = precision.mean(axis=(0, 1))
    return _result(_stats(evaluation), np.where(precision.min(axis=(0, 1)) < 0, np.nan, per_class))


def _stats(evaluation: COCOeval) -> list[float]:
    """Compute the first nine numbers of pycocotools' `summarize`, which knows 100 detections only.

    Returns:
        AP, AP50, AP75, AP of three ranges of areas, AR with the three numbers of detections. -1: nothing to
        measure.
    """
    # (IoU, recall, K, area, detections) and (IoU, K, area, detections)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    ious = evaluation.params.iouThrs
    parts = [
        precision[..., 0, -1],
        *(precision[np.isclose(ious, iou)][..., 0, -1] for iou in (0.5, 0.75)),
        *(precision[..., area, -1] for area in (1, 2, 3)),
        *(recall[..., 0, number] for number in range(3)),
    ]
    known = [part[part > -1] for part in parts]
    return [float(values.mean()) if values.size else -1.0 for values in known]


def _result(stats: Sequence[float], per_class: npt.NDArray[np.float64]) -> COCOResult:
    """Name pycocotools' first nine numbers. Its -1 (nothing to measure) becomes NaN."""
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")
    values = {
        name: float(value) if value >= 0 else float("nan")
        for name, value in zip(names, stats, strict=True)
    }
    return COCOResult(**values, ap_per_class=per_class)


class _BoxEvaluation(COCOeval):  # type: ignore[misc]  # pycocotools has no types
    """COCOeval that also ignores difficult objects. The original ignores crowds only."""

    def _prepare(self) -> None:
        super()._prepare()
        for objects in self._gts.values():
            for row in objects:
                row["ignore"] = row["ignore"] or row["difficult"]


def _dataset(images: Sequence[Iterator[dict[str, Any]]], num_classes: int) -> COCO:
    """Build pycocotools' data set. Ids begin at 1, because its matching uses id 0 for "no match"."""
    rows = [
        {**row, "image_id": image_id} for image_id, image in enumerate(images, 1) for row in image
    ]
    data = COCO()
    data.dataset = {
        "images": [{"id": image_id} for image_id in range(1, len(images) + 1)],
        "categories": [{"id": label} for label in range(1, num_classes + 1)],
        "annotations": [{**row, "id": number} for number, row in enumerate(rows, 1)],
    }
    data.createIndex()
    return data


def _truth_rows(image: ImageGroundTruth) -> Iterator[dict[str, Any]]:
    """Yield one annotation in COCO's form for each object."""
    xywh = _xywh(image.boxes)
    areas = xywh[:, 2] * xywh[:, 3] if image.areas is None else image.areas
    difficult, crowd = (_flags_or_false(f, len(xywh)) for f in (image.difficult, image.crowd))
    for g, box in enumerate(xywh.tolist()):
        yield {
            "bbox": box,
            "area": float(areas[g]),
            "category_id": int(image.labels[g]),
            "iscrowd": int(crowd[g]),
            "difficult": int(difficult[g]),
        }


def _detection_rows(image: ImageDetections) -> Iterator[dict[str, Any]]:
    """Yield one annotation in COCO's form for each detection."""
    for d, box in enumerate(_xywh(image.boxes).tolist()):
        yield {
            "bbox": box,
            "area": box[2] * box[3],
            "category_id": int(image.labels[d]),
            "score": float(image.scores[d]),
        }


def _xywh(boxes: Floats) -> npt.NDArray[np.float64]:
    """Turn boxes (A, 4) into (A, 4) x, y, width, height. float64 avoids rounding."""
    exact = boxes.astype(np.float64)
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1)


def _flags_or_false(flag: Bools | None, length: int) -> Bools:
    """Return the flags (length,). None means that all are False."""
    return np.zeros(length, bool) if flag is None else flag
