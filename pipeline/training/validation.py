"""Validate the model during training: detect on the validation images, measure mAP, draw pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from PIL import Image

from fastrcnn.config import SolverConfig
from fastrcnn.config.solver import BestBy
from fastrcnn.detection import Detections
from fastrcnn.metrics import (
    ImageDetections,
    ImageGroundTruth,
    VOCResult,
    best_f1_thresholds,
    evaluate_map50_95,
    evaluate_voc,
    match_boxes,
)
from fastrcnn.model import FastRCNN, with_config
from fastrcnn.tiled_detection import detect_tiled
from pipeline import storage
from pipeline.detections import DEFAULT_MIN_SCORE
from pipeline.drawing.curves import draw_precision_recall
from pipeline.drawing.pictures import contact_sheet, draw_boxes
from pipeline.images import decode
from pipeline.images.samples import NEUTRAL, SampleRules
from pipeline.proposals.table import Boxes
from pipeline.training.examples import Example

VALIDATION_BATCH = 4
"""Images per call of the detector."""
MAX_PICTURES = 8
RANKED_BY: Mapping[BestBy, str] = {"voc07": "val_map", "map50_95": "val_map50_95"}
"""The metric that ranks the checkpoints of a run, by `SolverConfig.best_by`."""


def ranking_metric(solver: SolverConfig, validation: Sequence[Example]) -> str:
    """Name the number that ranks a checkpoint; higher is better. Without validation, the last is the best."""
    return RANKED_BY[solver.best_by] if validation else "iteration"


class Validation(NamedTuple):
    """The result of `validate`, the same on every rank."""

    result: VOCResult
    """Average precision by the rules of VOC07."""
    map50_95: float
    """Mean average precision over IoU .5, .55, ... .95."""
    detections: list[ImageDetections]
    """Detections of each example, in order."""

    def metrics(self, classes: Sequence[str]) -> dict[str, Any]:
        """Give val_map, val_map50_95, and val_ap by class name.

        The AP of a class that is in no image is None, because JSON has no NaN.
        """
        pairs = zip(classes, self.result.ap, strict=True)
        per_class = {name: None if math.isnan(ap) else float(ap) for name, ap in pairs}
        return {
            RANKED_BY["voc07"]: float(self.result.mean_ap),
            RANKED_BY["map50_95"]: self.map50_95,
            "val_ap": per_class,
        }


Detect = Callable[[Sequence[npt.NDArray[np.uint8]], Sequence[Boxes]], list[Detections]]
"""A function from decoded images (H, W, 3) and their proposals (P, 4) to detections; all in the image
frame."""


def detector_of(model: FastRCNN, max_proposals: int | None = None) -> Detect:
    """Wrap a model in eval mode for `validate`: it detects in tiles if its config says so.

    A model with an RPN ignores the proposals it gets.

    Args:
        max_proposals: with tiles, given proposals of the whole image at most. None: all.
    """

    def detect_images(
        images: Sequence[npt.NDArray[np.uint8]], proposals: Sequence[Boxes]
    ) -> list[Detections]:
        given = None if model.rpn else proposals
        scored = detect_tiled(model, images, given, most_whole=max_proposals)
        return [image.detections for image in scored]

    return detect_images


def single_view(model: FastRCNN) -> FastRCNN:
    """Give the same network without `test_flips` and `test_scales`, for validation during training.

    With `test_flips` and two `test_scales`, twelve views of each of 87 images took as long as four epochs of
    205 images (docs/lab-notes.md).
    """
    return with_config(model, test_flips=False, test_scales=())


def validate(
    detector: Detect,
    num_classes: int,
    validation: Sequence[Example],
    rank: int = 0,
    world_size: int = 1,
    rules: SampleRules = NEUTRAL,
) -> Validation:
    """Detect on the validation images and measure average precision. Each rank detects on its share.

    Args:
        detector: made from a model in eval mode.
        num_classes: K, without the background.
        rules: how samples become pixels.
    """
    by_index = detect_share(detector, validation, rank, world_size, rules)
    if world_size > 1:
        shares: list[Any] = [None] * world_size
        dist.all_gather_object(shares, by_index)
        by_index = {index: result for part in shares for index, result in part.items()}
    detections = [by_index[index] for index in range(len(validation))]
    truth = [ground_truth(example) for example in validation]
    return Validation(
        result=evaluate_voc(truth, detections, num_classes),
        map50_95=evaluate_map50_95(truth, detections, num_classes),
        detections=detections,
    )


def detect_share(
    detector: Detect,
    examples: Sequence[Example],
    rank: int = 0,
    world_size: int = 1,
    rules: SampleRules = NEUTRAL,
) -> dict[int, ImageDetections]:
    """Detect on the images of one rank: each `world_size`-th, from the number `rank` on. Return detections by
    index."""
    by_index: dict[int, ImageDetections] = {}
    share = range(rank, len(examples), world_size)
    for start in range(0, len(share), VALIDATION_BATCH):
        indices = share[start : start + VALIDATION_BATCH]
        pixels = [read_pixels(examples[i], rules) for i in indices]
        batch = detector(pixels, [examples[i].proposals for i in indices])
        for index, (boxes, labels, scores) in zip(indices, batch, strict=True):
            by_index[index] = ImageDetections(
                boxes=boxes.numpy(), labels=labels.numpy(), scores=scores.numpy()
            )
    return by_index


def read_pixels(example: Example, rules: SampleRules) -> npt.NDArray[np.uint8]:
    """Read and decode the image of an example, (H, W, 3)."""
    return decode(storage.read_bytes(example.image.image_uri), rules=rules).pixels


def ground_truth(example: Example) -> ImageGroundTruth:
    """Give the labelled objects of an example, as the metrics take them."""
    image = example.image
    return ImageGroundTruth(
        boxes=image.gt_boxes,
        labels=image.gt_labels,
        difficult=image.difficult,
        crowd=image.crowd,
        ignored_regions=image.ignored,
    )


def draw_validation(
    validation: Validation,
    examples: Sequence[Example],
    classes: Sequence[str],
    rules: SampleRules = NEUTRAL,
) -> dict[str, bytes]:
    """Draw precision-recall curves, and a sheet of pictures.

    Args:
        examples: the validation examples, in order.
        classes: K names, in label order.
        rules: how samples become pixels.

    Returns:
        pr_curves.png, and pictures.jpg: the first `MAX_PICTURES` images, each twice, with detections on the
        left and ground truth on the right. Drawn are the detections from the score on at which F1 of their
        class is highest on these images; from .5 on if there is no such score.
    """
    truth = [ground_truth(example) for example in examples]
    points = best_f1_thresholds(
        match_boxes(truth, validation.detections, len(classes)), len(classes)
    )
    points = np.where(np.isnan(points), DEFAULT_MIN_SCORE, points)
    pictures, captions = [], []
    for example, detections in list(zip(examples, validation.detections, strict=True))[
        :MAX_PICTURES
    ]:
        image = example.image
        pixels = read_pixels(example, rules)
        labels, scores = np.asarray(detections.labels), np.asarray(detections.scores)
        shown = scores >= points[labels - 1]
        boxes, labels, scores = np.asarray(detections.boxes)[shown], labels[shown], scores[shown]
        pictures.append(draw_boxes(pixels, boxes, labels.tolist(), scores.tolist(), classes))
        pictures.append(draw_boxes(pixels, image.gt_boxes, image.gt_labels.tolist(), None, classes))
        name = storage.basename(image.image_uri)[-30:]
        captions += [f"{name}: detected", "ground truth"]
    sink = io.BytesIO()
    Image.fromarray(contact_sheet(pictures, captions)).save(sink, format="JPEG", quality=88)
    title = f"validation, mAP (VOC07) {validation.result.mean_ap:.3f}"
    curves = draw_precision_recall(validation.result, classes, title)
    return {"pr_curves.png": curves, "pictures.jpg": sink.getvalue()}
