"""Asks cleanlab (ObjectLab: Tkachenko, Thyagarajan and Mueller 2023) for its scores of the suspects.

A second opinion: its scores are from 0 to 1, and low is suspicious. It compares all boxes of all images in
Python loops, so it takes minutes for thousands of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics import ImageDetections, ImageGroundTruth
from pipeline.errors import UserError
from pipeline.results.suspicion import Suspect

_SCORES = {
    "missing_label": "compute_overlooked_box_scores",
    "bad_box": "compute_badloc_box_scores",
    "wrong_class": "compute_swap_box_scores",
}
"""The function of each kind. Overlooked boxes are those of the detector, the others those of the labels."""


def import_cleanlab() -> Any:
    """Import `cleanlab.object_detection.rank`. Raise UserError if it is not installed."""
    try:
        from cleanlab.object_detection import rank
    except ImportError as error:
        raise UserError(
            "--cleanlab",
            f"cleanlab cannot be imported ({error})",
            'Install the extra: pip install "fastrcnn-ray[cleanlab]", or leave the flag out.',
        ) from error
    return rank


def cleanlab_scores(
    suspects: Sequence[Suspect],
    truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    num_classes: int,
) -> list[float]:
    """Give the score of each suspect. NaN: cleanlab does not know its box.

    Args:
        truth, detections: of each image, as `find_suspects` got them.

    Raises:
        UserError: cleanlab is not installed.
    """
    rank = import_cleanlab()
    labels = [_labels(image) for image in truth]
    predictions = [_predictions(image, num_classes) for image in detections]
    wanted = {one.kind for one in suspects}
    scores = {
        kind: getattr(rank, name)(labels=labels, predictions=predictions)
        for kind, name in _SCORES.items()
        if kind in wanted
    }
    found = []
    for one in suspects:
        if one.kind == "missing_label":
            boxes = np.concatenate([part[:, :4] for part in predictions[one.image]])
            places = np.flatnonzero(_same(boxes, one.found_box) & _of(predictions[one.image], one))
        else:
            boxes = labels[one.image]["bboxes"]
            places = np.flatnonzero(
                _same(boxes, one.box) & (labels[one.image]["labels"] == one.label - 1)
            )
        of_image = scores[one.kind][one.image]
        known = len(places) and places[0] < len(of_image)
        found.append(float(of_image[places[0]]) if known else float("nan"))
    return found


def _labels(image: ImageGroundTruth) -> dict[str, npt.NDArray[Any]]:
    """Give the labels as cleanlab takes them: classes count from 0."""
    kept = ~image.ignored()
    return {
        "bboxes": image.boxes[kept].astype(np.float64),
        "labels": image.labels[kept].astype(np.int64) - 1,
    }


def _predictions(image: ImageDetections, num_classes: int) -> npt.NDArray[np.object_]:
    """Give the detections as cleanlab takes them: for each class rows x1, y1, x2, y2, score."""
    parts = np.empty(num_classes, object)
    for k in range(num_classes):
        rows = image.labels == k + 1
        parts[k] = np.column_stack([image.boxes[rows], image.scores[rows]]).astype(np.float64)
    return parts


def _of(parts: npt.NDArray[np.object_], one: Suspect) -> npt.NDArray[np.bool_]:
    """Mark the detections of the suspect's class, in the order of the parts."""
    return np.repeat(np.arange(len(parts)) == one.found_label - 1, [len(part) for part in parts])


def _same(boxes: npt.NDArray[Any], box: Sequence[float] | None) -> npt.NDArray[np.bool_]:
    assert box is not None
    near: npt.NDArray[np.bool_] = (np.abs(boxes - np.array(box)) < 1e-3).all(1)
    return near
