"""Measure a trained detector on labelled images: average precision, precision and recall, true scores.

Detects in this process, with the checkpoint's calibration and score threshold. No Ray is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastrcnn.metrics import (
    ImageDetections,
    ImageGroundTruth,
    Matches,
    best_f1_thresholds,
    evaluate_coco,
    evaluate_voc,
    match_boxes,
    score_quality,
)
from fastrcnn.metrics.operating import at_score
from pipeline import storage
from pipeline.annotations import LabelledImage, LabelledImages, read_labelled_images
from pipeline.annotations.sizes import compare_sizes
from pipeline.images import decode
from pipeline.storage import checkpoints
from pipeline.training.examples import Example
from pipeline.training.validation import Detect, detector_of, ground_truth

HALF = 0.5
"""The score from which boxes of a class without an operating point count."""


def measure(checkpoint: str, data: str, split: str) -> dict[str, Any]:
    """Detect on the images of a split and compare with the labels. null stands for no number.

    Args:
        checkpoint: a checkpoint with an RPN, or the --output of its training.
        data: folder or URI of labelled images.
        split: a split of it, or the URI of a split file.
    """
    loaded = checkpoints.load(checkpoints.find_checkpoint(checkpoint))
    detector = TrainedDetector(
        detect=detector_of(loaded.model.eval()),
        classes=tuple(loaded.classes),
        operating_points=loaded.config.get("operating_points") or {},
    )
    return measure_detector(detector, read_labelled_images(data, split, classes=detector.classes))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedDetector:
    """A detector that makes its own proposals."""

    detect: Detect
    classes: tuple[str, ...]
    operating_points: Mapping[str, float] = field(default_factory=dict)
    """The score of best F1, by class."""


def measure_detector(detector: TrainedDetector, labelled: LabelledImages) -> dict[str, Any]:
    """Measure as `measure`, on images whose classes are those of the detector."""
    truth, detections = _detect_all(detector.detect, labelled.images)
    numbers = quality(truth, detections, detector.classes, detector.operating_points)
    return {"images": len(truth), "classes": list(detector.classes), **numbers}


def best_f1_points(detector: TrainedDetector, labelled: LabelledImages) -> dict[str, float]:
    """Find the score of best F1 of each class on these images. A class without an object has none."""
    count = len(detector.classes)
    truth, detections = _detect_all(detector.detect, labelled.images)
    points = best_f1_thresholds(match_boxes(truth, detections, count), count)
    named = zip(detector.classes, points.tolist(), strict=True)
    return {name: point for name, point in named if not math.isnan(point)}


def _detect_all(
    detector: Detect, images: Sequence[LabelledImage]
) -> tuple[list[ImageGroundTruth], list[ImageDetections]]:
    pairs = [_detect(detector, image) for image in images]
    return [truth for truth, _ in pairs], [found for _, found in pairs]


def _detect(detector: Detect, image: LabelledImage) -> tuple[ImageGroundTruth, ImageDetections]:
    """Detect on one image; return its objects, in the frame of the upright image, and the detections."""
    uri = image.image_uri
    pixels = decode(storage.read_bytes(uri)).pixels
    sizes = {uri: (int(pixels.shape[0]), int(pixels.shape[1]))}
    upright = compare_sizes([image], sizes, "skip", quiet=True).images[uri]
    ((boxes, labels, scores),) = detector([pixels], [np.zeros((0, 4), np.float32)])
    truth = ground_truth(Example(upright, np.zeros((0, 4), np.float32)))
    return truth, ImageDetections(boxes=boxes.numpy(), labels=labels.numpy(), scores=scores.numpy())


def quality(
    truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    classes: Sequence[str],
    operating_points: Mapping[str, float],
) -> dict[str, Any]:
    """Compute the numbers of one detector; AP50 is the area under the curve, as in VOC 2010."""
    matches = match_boxes(truth, detections, len(classes))
    voc = evaluate_voc(truth, detections, len(classes), method="area")
    numbers = {
        "ap50": voc.mean_ap,
        "coco_ap": evaluate_coco(truth, detections, len(classes)).ap,
        **score_quality(matches).as_json(),
        **_at_points(matches, np.array([operating_points.get(n, HALF) for n in classes])),
    }
    by_class = dict(zip(classes, voc.ap.tolist(), strict=True))
    objects, half = len(matches.object_labels), at_score(matches, HALF)
    return {
        **_without_nan(numbers),
        "objects": objects,
        "boxes_per_object": (half.true + half.false) / objects if objects else None,
        "ap50_by_class": _without_nan(by_class),
    }


def _without_nan(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    """Give the numbers with None for NaN, which JSON lacks."""
    return {n: None if v is None or math.isnan(v) else float(v) for n, v in numbers.items()}


def _at_points(matches: Matches, points: np.ndarray[Any, Any]) -> dict[str, float]:
    at = at_score(matches, points)
    return {"point_precision": at.precision, "point_recall": at.recall}
