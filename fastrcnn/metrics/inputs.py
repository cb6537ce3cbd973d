"""What every metric takes: each image's labelled objects and detections, checked when made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageGroundTruth:
    """The labelled objects of one image.

    Args:
        boxes: (G, 4).
        labels: (G,) int, 1..K.
        difficult: (G,) bool, objects neither asked for nor counted as mistakes; None: none is.
        crowd: (G,) bool, regions standing for many objects; None: none is.
        areas: (G,) in square pixels, for COCO's small/medium/large, which COCO takes from the
            segmentation; None: those of the boxes.

    Raises:
        ValueError: the lengths differ, or a box is not finite.
    """

    boxes: Floats
    labels: Ints
    difficult: Bools | None = None
    crowd: Bools | None = None
    areas: Floats | None = None

    def __post_init__(self) -> None:
        _check_boxes(self.boxes)
        for name in ("labels", "difficult", "crowd", "areas"):
            value = getattr(self, name)
            if value is not None and value.shape != (len(self.boxes),):
                raise ValueError(f"{name} {value.shape} do not belong to boxes {self.boxes.shape}")

    def ignored(self) -> Bools:
        """(G,) objects that VOC's rules leave out of account: difficult ones and crowds."""
        ignored = np.zeros(len(self.boxes), bool)
        for flag in (self.difficult, self.crowd):
            if flag is not None:
                ignored |= flag
        return ignored


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDetections:
    """What a detector found in one image, in any order.

    Args:
        boxes: (D, 4).
        labels: (D,) int, 1..K.
        scores: (D,), higher is surer.

    Raises:
        ValueError: the lengths differ, or a box or score is not finite.
    """

    boxes: Floats
    labels: Ints
    scores: Floats

    def __post_init__(self) -> None:
        _check_boxes(self.boxes)
        for name in ("labels", "scores"):
            value = getattr(self, name)
            if value.shape != (len(self.boxes),):
                raise ValueError(f"{name} {value.shape} do not belong to boxes {self.boxes.shape}")
        if not np.isfinite(self.scores).all():
            raise ValueError("a score is not finite, so the detections have no order")


def check_images(
    ground_truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    num_classes: int,
) -> None:
    """Raise ValueError unless both are for the same number of images and every label is 1..K."""
    if len(ground_truth) != len(detections):
        raise ValueError(
            f"{len(ground_truth)} images with objects, {len(detections)} with detections"
        )
    for labels in (image.labels for images in (ground_truth, detections) for image in images):
        if len(labels) and not 1 <= labels.min() <= labels.max() <= num_classes:
            raise ValueError(f"labels {np.unique(labels)} are not all 1..{num_classes}")


def pairwise_iou(boxes: Floats, others: Floats) -> npt.NDArray[np.float64]:
    """IoU (A, B) of boxes (A, 4) and (B, 4), in float64; 0 between two boxes that have no area.

    `torchvision.ops.box_iou` on numpy arrays: importing torchvision takes longer than most evaluations.
    """
    a, b = (
        boxes.astype(np.float64)[:, None],
        others.astype(np.float64)[None],
    )  # (A, 1, 4), (1, B, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (A, B, 2)
    intersection = np.maximum(sides, 0).prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1), (b[..., 2:] - b[..., :2]).prod(axis=-1)
    union = areas[0] + areas[1] - intersection  # (A, B)
    nothing = np.zeros_like(union)
    iou: npt.NDArray[np.float64] = np.divide(intersection, union, out=nothing, where=union > 0)
    return iou


def _check_boxes(boxes: Floats) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes {boxes.shape} are not (number, 4)")
    if not np.isfinite(boxes).all():
        raise ValueError(f"box {boxes[~np.isfinite(boxes).all(axis=1)][0]} is not finite")
