"""What `calibrate_on` measures are the scores that scoring writes."""

from __future__ import annotations

import numpy as np
import pytest

from fastrcnn.metrics import ImageDetections
from pipeline.annotations import LabelledImage
from pipeline.training.calibration import calibrate_on
from pipeline.training.examples import Example

SQUARE = [0.0, 0.0, 10.0, 10.0]


def example(number: int) -> Example:
    """An image with one object of class 1."""
    image = LabelledImage(
        image_uri=f"{number}.jpg",
        annotation_uri="",
        gt_boxes=np.array([SQUARE], np.float32),
        gt_labels=np.array([1]),
        difficult=np.zeros(1, bool),
        crowd=np.zeros(1, bool),
        image_id=str(number),
    )
    return Example(image, np.zeros((0, 4), np.float32))


def twice_detected() -> ImageDetections:
    """Detections of two classes on one object, both sure; the better one is right."""
    return ImageDetections(
        boxes=np.array([SQUARE, SQUARE]), labels=np.array([1, 2]), scores=np.array([0.95, 0.9])
    )


@pytest.mark.parametrize("one_class_iou", [None, 0.6])
def test_a_second_class_on_an_object_counts_with_what_the_first_leaves(
    one_class_iou: float | None,
) -> None:
    examples = [example(number) for number in range(12)]
    detections = [twice_detected() for _ in examples]
    result = calibrate_on(examples, detections, ("a", "b"), one_class_iou=one_class_iou)
    plain = calibrate_on(examples, detections, ("a", "b"))
    assert result.curves == plain.curves  # the limit comes after the fit
    scores = {k: set(result.matches.scores[result.matches.labels == k].tolist()) for k in (1, 2)}
    (right,), (wrong,) = scores[1], scores[2]
    assert right > 0.5
    if one_class_iou is None:
        assert right + wrong > 1
    else:
        assert wrong == pytest.approx(1 - right, abs=1e-6)
