"""How good is the model so far: detection on the validation images, shared among the ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

from fastrcnn.detection import Detections
from fastrcnn.metrics import ImageDetections, ImageGroundTruth, evaluate_voc
from pipeline import storage
from pipeline.examples import Example
from pipeline.images import decode
from pipeline.proposals_table import Boxes

VALIDATION_BATCH = 4


Detect = Callable[[Sequence[npt.NDArray[np.uint8]], Sequence[Boxes]], list[Detections]]
"""Decoded images and their proposals to detections."""


def validate(
    detect: Detect,
    classes: tuple[str, ...],
    validation: list[Example],
    rank: int,
    world_size: int,
) -> dict[str, Any]:
    """VOC07 mAP on `validation`, the same on every rank; each detects on its share.

    Args:
        detect: of a model in eval mode.

    Returns:
        val_map, and val_ap by class name.
    """
    found: dict[int, ImageDetections] = {}
    own = range(rank, len(validation), world_size)
    for start in range(0, len(own), VALIDATION_BATCH):
        indices = own[start : start + VALIDATION_BATCH]
        pixels = [decode(storage.read_bytes(validation[i].image.image_uri)).pixels for i in indices]
        detections = detect(pixels, [validation[i].proposals for i in indices])
        for index, (boxes, labels, scores) in zip(indices, detections, strict=True):
            found[index] = ImageDetections(
                boxes=boxes.numpy(), labels=labels.numpy(), scores=scores.numpy()
            )
    if world_size > 1:
        shares: list[Any] = [None] * world_size
        dist.all_gather_object(shares, found)
        found = {index: result for share in shares for index, result in share.items()}
    result = evaluate_voc(
        [_ground_truth(example) for example in validation],
        [found[index] for index in range(len(validation))],
        len(classes),
    )
    # None, not NaN, for a class that these images do not hold: JSON knows no NaN.
    per_class = {
        name: None if math.isnan(ap) else float(ap)
        for name, ap in zip(classes, result.ap, strict=True)
    }
    return {"val_map": float(result.mean_ap), "val_ap": per_class}


def _ground_truth(example: Example) -> ImageGroundTruth:
    image = example.image
    return ImageGroundTruth(
        boxes=image.gt_boxes, labels=image.gt_labels, difficult=image.difficult, crowd=image.crowd
    )
