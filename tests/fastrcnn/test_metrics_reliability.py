"""Calibration errors and reliability curves by class, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fastrcnn.metrics import (
    ImageDetections,
    ImageGroundTruth,
    Matches,
    expected_calibration_error,
    match_boxes,
    reliability,
)

HERE, THERE = [0, 0, 10, 10], [50, 50, 60, 60]


def matched(*found: tuple[float, int, list[int]]) -> Matches:
    """Detections of one image that holds an object of class 1 `HERE`."""
    truth = ImageGroundTruth(boxes=np.array([HERE]), labels=np.array([1]))
    detected = ImageDetections(
        boxes=np.array([box for _, _, box in found], np.float64).reshape(-1, 4),
        labels=np.array([label for _, label, _ in found], np.int64),
        scores=np.array([score for score, _, _ in found], np.float64),
    )
    return match_boxes([truth], [detected], 2)


def test_the_error_of_a_class_is_the_distance_of_right_boxes_and_scores() -> None:
    # Class 1: scores .9 (right) and .9 (wrong) in one bin: |1 - 1.8| / 2. Class 2: .1, wrong.
    measured = reliability(matched((0.9, 1, HERE), (0.9, 1, THERE), (0.1, 2, THERE)), 2, bins=5)
    assert measured is not None
    assert measured.errors == pytest.approx([0.4, 0.1])
    assert measured.boxes[:, 4].tolist() == [2, 0]
    assert measured.right[:, 4].tolist() == [1, 0]


def test_boxes_of_all_classes_together_give_the_pooled_error() -> None:
    matches = matched((0.91, 1, HERE), (0.6, 1, THERE), (0.62, 1, THERE), (0.3, 1, THERE))
    measured = reliability(matches, 1)
    assert measured is not None
    pooled = expected_calibration_error(matches.scores, matches.correct)
    assert measured.errors[0] == pytest.approx(pooled)


def test_a_class_without_boxes_has_no_error() -> None:
    measured = reliability(matched((0.9, 1, HERE)), 2)
    assert measured is not None
    assert np.isnan(measured.errors[1])


def test_fewer_bins_hold_the_same_boxes() -> None:
    measured = reliability(matched((0.9, 1, HERE), (0.05, 1, THERE), (1.0, 2, THERE)), 2)
    assert measured is not None
    few = measured.merged(5)
    assert few.boxes.tolist() == [[1, 0, 0, 0, 1], [0, 0, 0, 0, 1]]
    assert few.scores.sum() == pytest.approx(1.95)


def test_margins_of_an_svm_have_no_reliability() -> None:
    assert reliability(matched((3.5, 1, HERE)), 2) is None
