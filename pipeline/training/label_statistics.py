"""Measure what the recipe of a training needs to know about the labels. Reads no files.

Legend: G objects in one image. Crowds are not objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics.inputs import pairwise_iou
from pipeline.annotations import LabelledImage, LabelledImages

NEIGHBOUR_IOU = 0.4
"""Two objects of a class above this IoU are neighbours: suppression at .4 would remove one of them."""
ONE_CLASS_IOU = 0.6
"""Two objects of different classes above this IoU share a box, like a person and a woman."""
MOST_IMAGES = 5000
"""Images that are looked at, evenly spaced. Of 118,000 images all pairs of boxes would take a minute."""

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelStatistics:
    """Numbers of one split of a labelled data set."""

    num_images: int
    num_objects: int
    num_classes: int
    """Classes that have an object."""
    side_p10: float | None
    """A tenth of the objects are smaller. Side is sqrt(area), as a share of the shorter image side. None:
    the size of no image with objects is known."""
    side_p50: float | None
    """The median side, as a share of the shorter image side."""
    short_side: int | None
    """Median of the shorter image sides, pixels."""
    long_side: int | None
    """Median of the longer image sides, pixels."""
    objects_p75: int
    """Three quarters of the images have at most so many objects."""
    most_objects: int
    """The largest number of objects in one image."""
    neighbours: float
    """Share of the objects that have a neighbour of their class at IoU > `NEIGHBOUR_IOU`."""
    shared_boxes: float
    """Share of the objects that share their box with one of another class, at IoU > `ONE_CLASS_IOU`."""


def label_statistics(
    data: LabelledImages, sizes: Mapping[str, Size] | None = None
) -> LabelStatistics:
    """Measure a split.

    Args:
        sizes: (height, width) by image URI, for images whose labels state no size.
    """
    known = sizes or {}
    step = -(-len(data.images) // MOST_IMAGES) or 1
    looked_at = data.images[::step]
    size_of = {i.image_uri: i.size or known.get(i.image_uri) for i in looked_at}
    pairs = [(i, size) for i in looked_at if (size := size_of[i.image_uri]) is not None]
    relative = [_sides(image) / min(size) for image, size in pairs]
    sides = np.concatenate([np.zeros(0), *relative])
    counts = [int((~image.crowd).sum()) for image in looked_at]
    labels = {int(k) for image in data.images for k in np.unique(image.gt_labels[~image.crowd])}
    return LabelStatistics(
        num_images=len(data.images),
        num_objects=sum(int((~image.crowd).sum()) for image in data.images),
        num_classes=len(labels),
        side_p10=_quantile(sides, 0.1),
        side_p50=_quantile(sides, 0.5),
        short_side=_median([min(size) for _, size in pairs]),
        long_side=_median([max(size) for _, size in pairs]),
        objects_p75=int(np.ceil(np.quantile(counts, 0.75))) if counts else 0,
        most_objects=max(counts, default=0),
        neighbours=_share_near(looked_at, NEIGHBOUR_IOU, same_class=True),
        shared_boxes=_share_near(looked_at, ONE_CLASS_IOU, same_class=False),
    )


def evenly(images: Sequence[LabelledImage], count: int) -> list[LabelledImage]:
    """Select at most `count` images, evenly spaced over the split."""
    if len(images) <= count:
        return list(images)
    return [images[round(k * (len(images) - 1) / (count - 1))] for k in range(count)]


def _sides(image: LabelledImage) -> npt.NDArray[np.float64]:
    """Give the side of each object (G,), pixels."""
    boxes = image.gt_boxes[~image.crowd].astype(np.float64)
    sides: npt.NDArray[np.float64] = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    return sides


def _quantile(values: npt.NDArray[np.float64], share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None


def _median(values: Sequence[int]) -> int | None:
    return int(np.median(values)) if values else None


def _share_near(images: Sequence[LabelledImage], iou: float, *, same_class: bool) -> float:
    """Give the share of the objects that have another one above an IoU, of the same class or of another."""
    total, near = 0, 0
    for image in images:
        boxes, labels = image.gt_boxes[~image.crowd], image.gt_labels[~image.crowd]
        total += len(boxes)
        if len(boxes) > 1:
            close = pairwise_iou(boxes, boxes) > iou
            close &= (labels[:, None] == labels) == same_class
            np.fill_diagonal(close, False)
            near += int(close.any(axis=1).sum())
    return near / total if total else 0.0
