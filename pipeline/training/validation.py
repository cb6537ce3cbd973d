"""How good the model is so far: detection on the validation images, shared among the ranks, and pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from PIL import Image

from fastrcnn.detection import Detections, detect
from fastrcnn.metrics import ImageDetections, ImageGroundTruth, VOCResult, evaluate_voc
from fastrcnn.model import FastRCNN, with_config
from pipeline import storage
from pipeline.drawing.curves import draw_precision_recall
from pipeline.drawing.pictures import contact_sheet, draw_boxes
from pipeline.images import decode
from pipeline.proposals.table import Boxes
from pipeline.training.examples import Example

VALIDATION_BATCH = 4
MAX_PICTURES = 8
MIN_SCORE = 0.5
"""Boxes below it are not drawn: average precision wants them, eyes do not."""


class Validation(NamedTuple):
    """What `validate` found, the same on every rank."""

    result: VOCResult
    """VOC07."""
    detections: list[ImageDetections]
    """Of each example, in order."""

    def metrics(self, classes: Sequence[str]) -> dict[str, Any]:
        """val_map, and val_ap by class name: None, for JSON knows no NaN, where no image holds the class."""
        pairs = zip(classes, self.result.ap, strict=True)
        per_class = {name: None if math.isnan(ap) else float(ap) for name, ap in pairs}
        return {"val_map": float(self.result.mean_ap), "val_ap": per_class}


Detect = Callable[[Sequence[npt.NDArray[np.uint8]], Sequence[Boxes]], list[Detections]]
"""Decoded images and their proposals to detections."""


def detector_of(model: FastRCNN) -> Detect:
    """A model in eval mode as `validate` calls it: on the proposals it is given, or on its own RPN's."""

    def run(
        images: Sequence[npt.NDArray[np.uint8]], proposals: Sequence[Boxes]
    ) -> list[Detections]:
        return detect(model, images, None if model.rpn else proposals)

    return run


def upright_only(model: FastRCNN) -> FastRCNN:
    """Give the same network, set to look at the upright image alone: that is how it is validated in training.

    Twelve views of each of 87 images, for `test_flips` and two `test_scales`, took as long as four epochs of
    205 images (docs/benchmarks.md).
    """
    return with_config(model, test_flips=False, test_scales=())


def validate(
    run: Detect,
    num_classes: int,
    validation: Sequence[Example],
    rank: int = 0,
    world_size: int = 1,
) -> Validation:
    """Detect on the validation images, each rank on its share, and measure average precision.

    Args:
        run: of a model in eval mode.
    """
    found: dict[int, ImageDetections] = {}
    own = range(rank, len(validation), world_size)
    for start in range(0, len(own), VALIDATION_BATCH):
        indices = own[start : start + VALIDATION_BATCH]
        pixels = [decode(storage.read_bytes(validation[i].image.image_uri)).pixels for i in indices]
        batch = run(pixels, [validation[i].proposals for i in indices])
        for index, (boxes, labels, scores) in zip(indices, batch, strict=True):
            found[index] = ImageDetections(
                boxes=boxes.numpy(), labels=labels.numpy(), scores=scores.numpy()
            )
    if world_size > 1:
        shares: list[Any] = [None] * world_size
        dist.all_gather_object(shares, found)
        found = {index: result for share in shares for index, result in share.items()}
    detections = [found[index] for index in range(len(validation))]
    truth = [_ground_truth(example) for example in validation]
    return Validation(evaluate_voc(truth, detections, num_classes), detections)


def _ground_truth(example: Example) -> ImageGroundTruth:
    image = example.image
    return ImageGroundTruth(
        boxes=image.gt_boxes, labels=image.gt_labels, difficult=image.difficult, crowd=image.crowd
    )


def draw_validation(
    found: Validation, examples: Sequence[Example], classes: Sequence[str]
) -> dict[str, bytes]:
    """pr_curves.png, and pictures.jpg: each image twice, detections beside ground truth.

    Args:
        examples: those that were validated on, in order.
        classes: K names.
    """
    pictures, captions = [], []
    for example, detections in list(zip(examples, found.detections, strict=True))[:MAX_PICTURES]:
        image = example.image
        pixels = decode(storage.read_bytes(image.image_uri)).pixels
        sure = np.asarray(detections.scores) >= MIN_SCORE
        labels, scores = np.asarray(detections.labels)[sure], np.asarray(detections.scores)[sure]
        boxes = np.asarray(detections.boxes)[sure]
        pictures.append(draw_boxes(pixels, boxes, labels.tolist(), scores.tolist(), classes))
        pictures.append(draw_boxes(pixels, image.gt_boxes, image.gt_labels.tolist(), None, classes))
        name = storage.basename(image.image_uri)[-30:]
        captions += [f"{name}: found", "labelled"]
    sink = io.BytesIO()
    Image.fromarray(contact_sheet(pictures, captions)).save(sink, format="JPEG", quality=88)
    title = f"validation, mAP (VOC07) {found.result.mean_ap:.3f}"
    curves = draw_precision_recall(found.result, classes, title)
    return {"pr_curves.png": curves, "pictures.jpg": sink.getvalue()}
