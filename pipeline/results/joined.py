"""Joins labelled images with their rows of a scoring run: boxes upright, classes numbered alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fastrcnn.metrics import ImageDetections, ImageGroundTruth
from pipeline.annotations import LabelledImages
from pipeline.annotations.sizes import compare_sizes

logger = logging.getLogger(__name__)

_SHOWN_PROBLEMS = 20
"""Label problems that are logged one by one; the others are counted."""
_CORNERS = ("x_min", "y_min", "x_max", "y_max")


def log_problems(problems: Sequence[str]) -> None:
    """Log what is wrong with labels: the first lines, and the number of the others."""
    for problem in problems[:_SHOWN_PROBLEMS]:
        logger.warning("%s", problem)
    if len(problems) > _SHOWN_PROBLEMS:
        logger.warning("... and %d more label problems", len(problems) - _SHOWN_PROBLEMS)


def upright(labelled: LabelledImages, rows: pa.Table) -> LabelledImages:
    """Turn boxes upright as EXIF says, and warn of images that have another size than their labels state.

    Args:
        rows: one row per labelled image, in order; they hold the sizes of the decoded images.
    """
    columns = zip(labelled.images, *(rows[c].to_pylist() for c in ("height", "width")), strict=True)
    sizes = {i.image_uri: (h, w) for i, h, w in columns if i.size and h and w}
    compared = compare_sizes(labelled.images, sizes, "skip")
    log_problems([one.text for one in compared.bad])
    return replace(
        labelled, images=tuple(compared.images[image.image_uri] for image in labelled.images)
    )


def ground_truth(labelled: LabelledImages, classes: Sequence[str]) -> list[ImageGroundTruth]:
    """Return the objects of `classes` in each image. Label k means classes[k - 1]."""
    new_label = label_table(labelled.classes, classes)
    images = []
    for image in labelled.images:
        labels = new_label[image.gt_labels - 1]
        keep = labels > 0
        images.append(
            ImageGroundTruth(
                boxes=image.gt_boxes[keep],
                labels=labels[keep],
                difficult=image.difficult[keep],
                crowd=image.crowd[keep],
                areas=None if image.areas is None else image.areas[keep],
                ignored_regions=image.ignored,
            )
        )
    return images


def detections_of(rows: pa.Table, classes: Sequence[str]) -> list[ImageDetections]:
    """Return the detections of `classes` in each row; none if the status of the row is not `ok`."""
    column = rows["detections"].combine_chunks()
    flat = pc.list_flatten(column)  # struct array, the detections of all rows
    names = pc.struct_field(flat, "label").dictionary_encode()
    new_label = label_table(names.dictionary.to_pylist(), classes)
    labels = new_label[names.indices.to_numpy()]
    scores = pc.struct_field(flat, "score").to_numpy()
    boxes = np.stack([pc.struct_field(flat, name).to_numpy() for name in _CORNERS], axis=1)
    ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
    images = []
    for start, end in zip(np.append(0, ends), ends, strict=False):
        keep = start + np.flatnonzero(labels[start:end])
        images.append(ImageDetections(boxes=boxes[keep], labels=labels[keep], scores=scores[keep]))
    return images


def label_table(names: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the label of each name, (len(names),): 1..K, or 0 for a class that is not in `classes`."""
    label = {name: k for k, name in enumerate(classes, 1)}
    return np.array([label.get(name, 0) for name in names], np.int64)
