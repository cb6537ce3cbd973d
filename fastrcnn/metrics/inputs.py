"""The inputs of all metrics: the labelled objects and the detections of each image, with their checks.

Legend: G ground-truth objects, I ignored regions and D detections of one image; K classes; A and B any
numbers of boxes.
"""

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
        difficult: (G,) bool. A difficult object is ignored: neither missing nor detecting it is a mistake.
            None: no object is difficult.
        crowd: (G,) bool. A crowd is a region that stands for many objects. None: no object is a crowd.
        areas: (G,) in square pixels. They decide whether an object is small, medium or large for COCO, which
            takes them from the segmentation. None: the areas of the boxes.
        ignored_regions: (I, 4), where a detection of any class is no mistake. Nobody knows what they show.
            None: there are none.

    Raises:
        ValueError: the lengths differ, or a box is not finite.
    """

    boxes: Floats
    labels: Ints
    difficult: Bools | None = None
    crowd: Bools | None = None
    areas: Floats | None = None
    ignored_regions: Floats | None = None

    def __post_init__(self) -> None:
        _check_boxes(self.boxes)
        if self.ignored_regions is not None:
            _check_boxes(self.ignored_regions)
        for name in ("labels", "difficult", "crowd", "areas"):
            value = getattr(self, name)
            if value is not None:
                _check_length(name, value, self.boxes)

    def ignored(self) -> Bools:
        """Mark the objects that VOC's rules ignore (G,): difficult ones and crowds."""
        ignored = np.zeros(len(self.boxes), bool)
        for flag in (self.difficult, self.crowd):
            if flag is not None:
                ignored |= flag
        return ignored

    def with_regions_as_crowds(self, num_classes: int) -> ImageGroundTruth:
        """Return the same image with each ignored region as one crowd of every class 1..K."""
        regions = self.ignored_regions
        if regions is None or len(regions) == 0:
            return self
        labels = np.repeat(np.arange(1, num_classes + 1), len(regions))  # (K * I,)
        boxes = np.tile(regions, (num_classes, 1))  # (K * I, 4)
        no, yes = np.zeros(len(labels), bool), np.ones(len(labels), bool)
        crowd, difficult = (
            np.zeros(len(self.boxes), bool) if flag is None else flag
            for flag in (self.crowd, self.difficult)
        )
        areas = None
        if self.areas is not None:
            areas = np.concatenate([self.areas, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)])
        return ImageGroundTruth(
            boxes=np.concatenate([self.boxes, boxes]),
            labels=np.concatenate([self.labels, labels]),
            difficult=np.concatenate([difficult, no]),
            crowd=np.concatenate([crowd, yes]),
            areas=areas,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDetections:
    """The detections of one image, in any order.

    Args:
        boxes: (D, 4).
        labels: (D,) int, 1..K.
        scores: (D,). A higher score means a more certain detection.

    Raises:
        ValueError: the lengths differ, or a box or score is not finite.
    """

    boxes: Floats
    labels: Ints
    scores: Floats

    def __post_init__(self) -> None:
        _check_boxes(self.boxes)
        for name in ("labels", "scores"):
            _check_length(name, getattr(self, name), self.boxes)
        if not np.isfinite(self.scores).all():
            score = self.scores[~np.isfinite(self.scores)][0]
            raise ValueError(f"score {score} is not finite: expected numbers that can be sorted")


def check_images(
    ground_truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    num_classes: int,
) -> None:
    """Raise ValueError if the numbers of images differ, or if a label is outside 1..K."""
    if len(ground_truth) != len(detections):
        raise ValueError(
            f"{len(ground_truth)} images with objects, {len(detections)} with detections:"
            " expected the same images in both"
        )
    for labels in (image.labels for images in (ground_truth, detections) for image in images):
        if len(labels) and not 1 <= labels.min() <= labels.max() <= num_classes:
            raise ValueError(f"labels {np.unique(labels)}: expected 1 to {num_classes}")


def pairwise_iou(boxes: Floats, others: Floats) -> npt.NDArray[np.float64]:
    """Compute the IoU (A, B) of boxes (A, 4) and (B, 4) in float64. It is 0 for two boxes without area.

    It equals `torchvision.ops.box_iou`, on numpy arrays. Importing torchvision takes longer than most
    evaluations.
    """
    a = boxes.astype(np.float64)[:, None]  # (A, 1, 4)
    b = others.astype(np.float64)[None]  # (1, B, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (A, B, 2)
    intersection = np.maximum(sides, 0).prod(axis=-1)
    area_a = (a[..., 2:] - a[..., :2]).prod(axis=-1)  # (A, 1)
    area_b = (b[..., 2:] - b[..., :2]).prod(axis=-1)  # (1, B)
    union = area_a + area_b - intersection  # (A, B)
    zeros = np.zeros_like(union)
    iou: npt.NDArray[np.float64] = np.divide(intersection, union, out=zeros, where=union > 0)
    return iou


def _check_boxes(boxes: Floats) -> None:
    """Raise ValueError unless boxes have the shape (A, 4) and all values are finite."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes have the shape {boxes.shape}: expected (number, 4)")
    if not np.isfinite(boxes).all():
        box = boxes[~np.isfinite(boxes).all(axis=1)][0]
        raise ValueError(f"box {box} is not finite: expected x1, y1, x2, y2 in pixels")


def _check_length(name: str, values: npt.NDArray[Any], boxes: Floats) -> None:
    """Raise ValueError unless there is one value for each box."""
    if values.shape != (len(boxes),):
        raise ValueError(
            f"{name} have the shape {values.shape}: expected ({len(boxes)},), one for each box"
        )
