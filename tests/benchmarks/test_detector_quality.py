from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detector_quality import quality
from fastrcnn.metrics import ImageDetections, ImageGroundTruth


def boxes(*left: float) -> np.ndarray:
    """Make boxes of 10 x 10 px that begin at these x."""
    return np.array([[x, 0, x + 10, 10] for x in left], np.float32)


def truth(*left: float) -> ImageGroundTruth:
    none = np.zeros(len(left), bool)
    labels = np.ones(len(left), np.int64)
    return ImageGroundTruth(boxes=boxes(*left), labels=labels, difficult=none, crowd=none)


def test_precision_and_recall_at_half_and_at_the_operating_points() -> None:
    """The first and the third of three boxes are right; .5 cuts the third off, .3 does not."""
    found = ImageDetections(
        boxes=boxes(0, 50, 100), labels=np.ones(3, np.int64), scores=np.array([0.9, 0.6, 0.4])
    )
    numbers = quality([truth(0, 100)], [found], ["a", "b"], {"a": 0.3})
    assert (numbers["precision"], numbers["recall"]) == (0.5, 0.5)
    assert numbers["point_precision"] == pytest.approx(2 / 3)
    assert numbers["point_recall"] == 1
    assert numbers["boxes_per_object"] == 1
    assert numbers["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.6) / 3)
    assert numbers["ap50"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert numbers["ap50_by_class"] == {"a": pytest.approx(5 / 6), "b": None}


def test_without_detections_there_is_no_precision() -> None:
    none = ImageDetections(
        boxes=boxes().reshape(0, 4), labels=np.zeros(0, np.int64), scores=np.zeros(0)
    )
    numbers = quality([truth(0)], [none], ["a"], {})
    assert (numbers["precision"], numbers["recall"]) == (None, 0)
    assert (numbers["ap50"], numbers["boxes_per_object"]) == (0, 0)
