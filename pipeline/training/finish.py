"""The last part of a training: calibrate the best checkpoint, and write what limits it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastrcnn.checkpoint import load_checkpoint
from fastrcnn.config import FastRCNNConfig
from fastrcnn.metrics import evaluate_voc
from fastrcnn.transform import scale_factor
from pipeline import storage
from pipeline.images.samples import SampleRules
from pipeline.training.advice import Facts, advise, page
from pipeline.training.calibration import (
    Calibrated,
    Seen,
    calibrate_on,
    detect_on_workers,
    log_calibration,
)
from pipeline.training.examples import Example
from pipeline.training.frames import frames_of
from pipeline.training.validation import ground_truth

logger = logging.getLogger(__name__)

DEFAULT_MIN_SCORE = 0.5
"""Score from which people look at boxes of a class without an operating point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Images that the training did not use."""

    examples: Sequence[Example]
    source: str
    """What they are: "validation images" or "images held out of the training"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What belongs to the best checkpoint besides its weights."""

    config: dict[str, Any]
    """Content of config.json, with calibration and operating points."""
    metrics: dict[str, Any]
    """The entry `final` of metrics.json."""
    advice: str
    """A page of Markdown."""


def finish(
    folder: Path,
    examples: Sequence[Example],
    held_out: HeldOut,
    history: Sequence[Mapping[str, Any]],
    metric: str,
    rules: SampleRules,
    per_worker: Mapping[str, float],
    num_workers: int,
) -> Finished:
    """Detect on the images that were held out, fit the calibration, and write the advice.

    Args:
        folder: the best checkpoint.
        examples: the training examples.
        history: metrics of each validation.
        metric: the metric that ranks the checkpoints.
        rules: how samples become pixels.
        per_worker, num_workers: CPUs and GPUs of one worker, and the number of workers.

    Raises:
        JobError: an image cannot be read now. The same command tries again.
    """
    checkpoint = load_checkpoint(folder)
    model, classes = checkpoint.model, checkpoint.classes
    if held_out.examples:
        most = checkpoint.proposals.max_boxes
        seen = detect_on_workers(model, held_out.examples, rules, per_worker, num_workers, most)
    else:
        seen = Seen(detections=[], sizes=[], covered=None)
    fit = model.config.calibrate and model.config.classifier == "softmax"
    result = calibrate_on(
        held_out.examples,
        seen.detections,
        classes,
        fit=fit,
        one_class_iou=model.config.one_class_iou,
    )
    count = len(held_out.examples)
    if count:
        log_calibration(result, count, held_out.source)
    if fit and result.curves is None:
        logger.warning(
            "the scores are not calibrated: %d images held out, without labelled objects or detections."
            " Give --val-split or --val-fraction, or run jobs/calibrate.py on the checkpoint later",
            count,
        )
    facts = Facts(
        classes=classes,
        images_per_class=_images_per_class(examples, len(classes)),
        matches=result.matches,
        sides=_sides(model.config, result, seen),
        scale=model.config.scales[-1],
        largest_scale=int(np.median([min(size) for size in seen.sizes])) if seen.sizes else 0,
        image_names=[storage.basename(e.image.image_uri) for e in held_out.examples],
        min_scores=np.array([result.operating_points.get(n, DEFAULT_MIN_SCORE) for n in classes]),
        ap=_average_precision(held_out.examples, seen, len(classes)),
        history=[(row["iteration"], row[metric]) for row in history],
        proposer=checkpoint.proposals.name,
        covered=seen.covered,
    )
    findings = advise(facts)
    for finding in findings:
        logger.info("advice: %s %s", finding.what, finding.action)
    iteration = checkpoint.config["training"]["iteration"]
    return Finished(
        config=result.apply(checkpoint.config, count) if count else checkpoint.config,
        metrics={"iteration": iteration, "measured_on": held_out.source} | result.described(count),
        advice=page(facts, findings, held_out.source),
    )


def _images_per_class(examples: Sequence[Example], num_classes: int) -> list[int]:
    """Count the images (K,) that show each class."""
    count = Counter(label for e in examples for label in set(e.image.gt_labels.tolist()))
    return [count[label] for label in range(1, num_classes + 1)]


def _sides(
    config: FastRCNNConfig, result: Calibrated, seen: Seen
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Compute the square root of the area of each object (O,), in pixels of the model frame.

    An image pyramid counts with its largest scale, and an image with tiles as the tiles show it.
    """
    if config.tile is None:
        factors = [scale_factor(size, config.scales[-1], config.max_size) for size in seen.sizes]
    else:
        factors = [frames_of(size, config)[-1].factor for size in seen.sizes]
    boxes, images = result.matches.object_boxes, result.matches.object_images
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    sides: np.ndarray[tuple[int], np.dtype[np.float64]] = np.sqrt(areas)
    return sides * np.array(factors, np.float64)[images]


def _average_precision(
    examples: Sequence[Example], seen: Seen, num_classes: int
) -> list[float | None]:
    """Measure the AP (K,) by VOC 2010's rule. None: no objects."""
    truth = [ground_truth(example) for example in examples]
    ap = evaluate_voc(truth, seen.detections, num_classes, method="area").ap.tolist()
    return [value if value == value else None for value in ap]
