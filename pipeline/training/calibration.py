"""What happens to the best checkpoint after the last step: calibrate its scores, measure it, find its limits.

Detection runs on workers with the resources of a training worker. The rest is arithmetic on the driver.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from fastrcnn.calibration import Curve, calibrate, fit_calibration, limit_to_one_class
from fastrcnn.config import FastRCNNConfig
from fastrcnn.metrics import (
    ImageDetections,
    Matches,
    ScoreHistogram,
    ScoreQuality,
    best_f1_thresholds,
    match_boxes,
    measured_histogram,
    proposal_recall,
    score_quality,
)
from fastrcnn.metrics.score_shift import histogram_json
from fastrcnn.model import FastRCNN
from fastrcnn.tiled_detection import propose_tiled
from pipeline.errors import JobError, one_line
from pipeline.images.samples import NEUTRAL, SampleRules
from pipeline.storage.archives.listed import Listing, listings_of, remember
from pipeline.training.examples import Example
from pipeline.training.validation import detect_share, detector_of, ground_truth, read_pixels

logger = logging.getLogger(__name__)

COVERAGE_IMAGES = 100
"""Images to measure an RPN's proposals on. Each runs through the backbone once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a detector makes of images that it was not trained on."""

    detections: list[ImageDetections]
    """Detections of each image, before calibration."""
    sizes: list[tuple[int, int]]
    """(height, width) of each image."""
    covered: float | None
    """Share of the objects that a proposal covers at IoU .5. None: there are no objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """The result of `calibrate_on`."""

    curves: tuple[Curve, ...] | None
    """None: the scores stay as they are."""
    matches: Matches
    """The matched boxes with the scores that scoring will write."""
    operating_points: dict[str, float]
    """The score of each class at which F1 is highest on these images."""
    quality: ScoreQuality
    before: ScoreQuality | None
    """The quality before calibration. None without calibration."""
    histogram: ScoreHistogram | None = None
    """The scores that scoring will write for these images. None without calibration, or for few images."""

    def described(self, num_images: int) -> dict[str, Any]:
        """Give the numbers for metrics.json and config.json."""
        numbers: dict[str, Any] = {
            "images": num_images,
            "objects": len(self.matches.object_labels),
            "at_half": self.quality.as_json(),
        }
        if self.before is not None:
            numbers["at_half_before_calibration"] = self.before.as_json()
        return numbers

    def apply(self, config: Mapping[str, Any], num_images: int) -> dict[str, Any]:
        """Give the content of config.json with calibration, operating points and these numbers."""
        model = dict(config["model"]) | {"calibration": self.curves}
        measured = {"calibration": self.described(num_images)}
        if self.histogram is not None:
            measured["calibration"]["scores"] = histogram_json(self.histogram)
        return {
            **config,
            "model": model,
            "training": {**(config.get("training") or {}), **measured},
            "operating_points": self.operating_points,
        }


def detect_on_workers(
    model: FastRCNN,
    examples: Sequence[Example],
    rules: SampleRules,
    per_worker: Mapping[str, float],
    num_workers: int,
    max_proposals: int | None = None,
) -> Seen:
    """Detect on images in Ray tasks, each with the resources of a training worker.

    Args:
        model: the detector. Calibration in its config is not applied.
        per_worker: CPUs and GPUs of one worker.
        num_workers: number of tasks. They wait for each other if there is no room for all.
        max_proposals: as in `detector_of`.

    Raises:
        JobError: an image cannot be read now, or the detector fails.
    """
    task: Any = ray.remote(num_cpus=per_worker["CPU"], num_gpus=per_worker["GPU"])(_detect_part)
    config = replace(model.config, calibration=None)
    weights, shared = ray.put(model.state_dict()), ray.put(list(examples))
    listings = ray.put(listings_of(example.image.image_uri for example in examples))
    parts = [
        task.remote(config, weights, shared, listings, r, num_workers, rules, max_proposals)
        for r in range(num_workers)
    ]
    try:
        results = ray.get(parts)
    except ray.exceptions.RayError as error:
        raise JobError(
            f"detection with the best checkpoint failed: {one_line(error)}. Run the same command again."
        ) from error
    by_index: dict[int, _Part] = {index: part for share in results for index, part in share.items()}
    return _joined(examples, [by_index[index] for index in range(len(examples))])


_Part = tuple[ImageDetections, tuple[int, int], np.ndarray[Any, Any] | None]
"""Detections, size and proposals of one image. None: the image was not used to measure proposals."""


def _detect_part(
    config: FastRCNNConfig,
    weights: Mapping[str, Tensor],
    examples: list[Example],
    listings: list[Listing],
    rank: int,
    world_size: int,
    rules: SampleRules = NEUTRAL,
    max_proposals: int | None = None,
) -> dict[int, _Part]:
    """Detect on the share of one task, on its GPU if it has one."""
    remember(listings)
    model = FastRCNN(config)
    model.load_state_dict(dict(weights))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    detector = detector_of(model, max_proposals)
    detections = detect_share(detector, examples, rank, world_size, rules)
    parts: dict[int, _Part] = {}
    for index, detected in detections.items():
        example, proposals = examples[index], examples[index].proposals
        pixels = read_pixels(example, rules)
        if model.rpn is not None and index < COVERAGE_IMAGES:
            proposals = propose_tiled(model, [pixels])[0].boxes.cpu().numpy()
        known = model.rpn is None or index < COVERAGE_IMAGES
        size = int(pixels.shape[0]), int(pixels.shape[1])
        parts[index] = (detected, size, proposals if known else None)
    return parts


def _joined(examples: Sequence[Example], parts: Sequence[_Part]) -> Seen:
    measured = [(p[2], e) for p, e in zip(parts, examples, strict=True) if p[2] is not None]
    objects = [e.image.gt_boxes[~(e.image.difficult | e.image.crowd)] for _, e in measured]
    covered = proposal_recall([boxes for boxes, _ in measured], objects, (0.5,)).recalls[0]
    return Seen(
        detections=[part[0] for part in parts],
        sizes=[part[1] for part in parts],
        covered=None if math.isnan(covered) else covered,
    )


def calibrate_on(
    examples: Sequence[Example],
    detections: Sequence[ImageDetections],
    classes: Sequence[str],
    *,
    fit: bool = True,
    one_class_iou: float | None = None,
    weights: np.ndarray[Any, Any] | None = None,
) -> Calibrated:
    """Fit the calibration to detections, and choose the score of each class with the highest F1.

    Args:
        examples: images that the training did not see.
        detections: their detections before calibration, in order.
        fit: False: only measure.
        one_class_iou: as in `FastRCNNConfig`.
        weights: (N,) how many images each one stands for. None: all count alike.
    """
    num_classes = len(classes)
    truth = [ground_truth(example) for example in examples]
    matches = match_boxes(truth, detections, num_classes)
    before, curves, histogram = score_quality(matches), None, None
    if fit and len(matches.labels) and len(matches.object_labels):
        has_objects = np.isin(np.arange(1, num_classes + 1), matches.object_labels)
        curves = fit_calibration(
            matches.scores,
            matches.correct,
            matches.labels,
            num_classes,
            has_objects=has_objects,
            weights=None if weights is None else weights[matches.images],
        )
        written = [_written(image, curves, one_class_iou) for image in detections]
        matches = match_boxes(truth, written, num_classes)
        histogram = measured_histogram(written, num_classes, weights=weights)
    points = best_f1_thresholds(matches, num_classes).tolist()
    return Calibrated(
        curves=curves,
        matches=matches,
        operating_points={
            name: point for name, point in zip(classes, points, strict=True) if point == point
        },
        quality=score_quality(matches),
        before=None if curves is None else before,
        histogram=histogram,
    )


def _written(
    detections: ImageDetections, curves: Sequence[Curve], one_class_iou: float | None
) -> ImageDetections:
    """Give the detections of an image with the scores that scoring writes: float32 numbers."""
    scores = torch.from_numpy(detections.scores.astype(np.float32))
    labels = torch.from_numpy(detections.labels.astype(np.int64))
    scores = calibrate(scores, labels, curves)
    if one_class_iou is not None:
        boxes = torch.from_numpy(detections.boxes.astype(np.float32))
        scores = limit_to_one_class(boxes, labels, scores, one_class_iou)
    return replace(detections, scores=scores.double().numpy())


def log_calibration(result: Calibrated, num_images: int, source: str) -> None:
    """Log what calibration changed.

    Args:
        source: what the images are, e.g. "validation images".
    """
    num_objects = len(result.matches.object_labels)
    where = f"{num_images} {source} with {num_objects} objects"
    if result.before is not None:
        logger.info("scores before calibration, on %s: %s", where, result.before)
        logger.info("scores calibrated on the same images: %s", result.quality)
    else:
        logger.info("scores on %s, not calibrated: %s", where, result.quality)
    points = ", ".join(f"{name} {score:.2g}" for name, score in result.operating_points.items())
    if points:
        logger.info("scores with the highest F1 (operating points): %s", points)
