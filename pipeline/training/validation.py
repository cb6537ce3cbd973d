"""Validate the model during training: detect on the validation images, measure mAP, draw pictures."""

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
"""Images per call of the detector."""
MAX_PICTURES = 8
MIN_SCORE = 0.5
"""Lowest score of a drawn box. Average precision uses all boxes."""


class Validation(NamedTuple):
    """The result of `validate`, the same on every rank."""

    result: VOCResult
    """Average precision by the rules of VOC07."""
    detections: list[ImageDetections]
    """Detections of each example, in order."""

    def metrics(self, classes: Sequence[str]) -> dict[str, Any]:
        """Give val_map, and val_ap by class name.

        The AP of a class that is in no image is None, because JSON has no NaN.
        """
        pairs = zip(classes, self.result.ap, strict=True)
        per_class = {name: None if math.isnan(ap) else float(ap) for name, ap in pairs}
        return {"val_map": float(self.result.mean_ap), "val_ap": per_class}


Detect = Callable[[Sequence[npt.NDArray[np.uint8]], Sequence[Boxes]], list[Detections]]
"""A function from decoded images (H, W, 3) and their proposals (P, 4) to detections; all in the image
frame."""


def detector_of(model: FastRCNN) -> Detect:
    """Wrap a model in eval mode for `validate`. A model with an RPN ignores the proposals it gets."""

    def detect_images(
        images: Sequence[npt.NDArray[np.uint8]], proposals: Sequence[Boxes]
    ) -> list[Detections]:
        return detect(model, images, None if model.rpn else proposals)

    return detect_images


def upright_only(model: FastRCNN) -> FastRCNN:
    """Give the same network without `test_flips` and `test_scales`, for validation during training.

    With `test_flips` and two `test_scales`, twelve views of each of 87 images took as long as four epochs of
    205 images (docs/benchmarks.md).
    """
    return with_config(model, test_flips=False, test_scales=())


def validate(
    detector: Detect,
    num_classes: int,
    validation: Sequence[Example],
    rank: int = 0,
    world_size: int = 1,
) -> Validation:
    """Detect on the validation images and measure average precision. Each rank detects on its share.

    Args:
        detector: made from a model in eval mode.
        num_classes: K, without the background.
    """
    by_index: dict[int, ImageDetections] = {}
    share = range(rank, len(validation), world_size)
    for start in range(0, len(share), VALIDATION_BATCH):
        indices = share[start : start + VALIDATION_BATCH]
        pixels = [decode(storage.read_bytes(validation[i].image.image_uri)).pixels for i in indices]
        batch = detector(pixels, [validation[i].proposals for i in indices])
        for index, (boxes, labels, scores) in zip(indices, batch, strict=True):
            by_index[index] = ImageDetections(
                boxes=boxes.numpy(), labels=labels.numpy(), scores=scores.numpy()
            )
    if world_size > 1:
        shares: list[Any] = [None] * world_size
        dist.all_gather_object(shares, by_index)
        by_index = {index: result for part in shares for index, result in part.items()}
    detections = [by_index[index] for index in range(len(validation))]
    truth = [_ground_truth(example) for example in validation]
    return Validation(evaluate_voc(truth, detections, num_classes), detections)


def _ground_truth(example: Example) -> ImageGroundTruth:
    image = example.image
    return ImageGroundTruth(
        boxes=image.gt_boxes, labels=image.gt_labels, difficult=image.difficult, crowd=image.crowd
    )


def draw_validation(
    validation: Validation, examples: Sequence[Example], classes: Sequence[str]
) -> dict[str, bytes]:
    """Draw precision-recall curves, and a sheet of pictures.

    Args:
        examples: the validation examples, in order.
        classes: K names, in label order.

    Returns:
        pr_curves.png, and pictures.jpg: the first `MAX_PICTURES` images, each twice, with detections on the
        left and ground truth on the right.
    """
    pictures, captions = [], []
    for example, detections in list(zip(examples, validation.detections, strict=True))[
        :MAX_PICTURES
    ]:
        image = example.image
        pixels = decode(storage.read_bytes(image.image_uri)).pixels
        sure = np.asarray(detections.scores) >= MIN_SCORE
        labels, scores = np.asarray(detections.labels)[sure], np.asarray(detections.scores)[sure]
        boxes = np.asarray(detections.boxes)[sure]
        pictures.append(draw_boxes(pixels, boxes, labels.tolist(), scores.tolist(), classes))
        pictures.append(draw_boxes(pixels, image.gt_boxes, image.gt_labels.tolist(), None, classes))
        name = storage.basename(image.image_uri)[-30:]
        captions += [f"{name}: detected", "ground truth"]
    sink = io.BytesIO()
    Image.fromarray(contact_sheet(pictures, captions)).save(sink, format="JPEG", quality=88)
    title = f"validation, mAP (VOC07) {validation.result.mean_ap:.3f}"
    curves = draw_precision_recall(validation.result, classes, title)
    return {"pr_curves.png": curves, "pictures.jpg": sink.getvalue()}
