"""Precision and recall at a score, the calibration error, and the best threshold, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastrcnn.metrics import (
    AtScore,
    ImageDetections,
    ImageGroundTruth,
    Matches,
    at_score,
    best_f1_thresholds,
    expected_calibration_error,
    match_boxes,
    score_quality,
)


def matches_of(
    scores: list[float], correct: list[bool], num_objects: int, label: int = 1
) -> Matches:
    """One image with objects side by side; the i-th true detection lies on the i-th object."""
    boxes = np.array([(20.0 * i, 0, 20 * i + 10, 10) for i in range(num_objects)]).reshape(-1, 4)
    on, off = iter(boxes), np.array([0.0, 500, 10, 510])
    return match_boxes(
        [ImageGroundTruth(boxes=boxes, labels=np.full(num_objects, label))],
        [
            ImageDetections(
                boxes=np.array([next(on) if true else off for true in correct]).reshape(-1, 4),
                labels=np.full(len(scores), label),
                scores=np.array(scores, np.float64),
            )
        ],
        2,
    )


def test_precision_and_recall_at_a_half_count_boxes_of_exactly_a_half() -> None:
    matches = matches_of([0.9, 0.8, 0.5, 0.4], [True, False, True, True], 4)
    assert at_score(matches) == AtScore(true=2, false=1, missed=2)
    quality = score_quality(matches)
    assert (quality.precision, quality.recall) == (2 / 3, 0.5)


def test_each_class_may_have_a_score() -> None:
    matches = matches_of([0.9, 0.4], [True, True], 2, label=2)
    assert at_score(matches, np.array([0.1, 0.6])) == AtScore(true=1, false=0, missed=1)


def test_the_calibration_error_is_the_mean_distance_of_a_bin() -> None:
    scores = np.array([0.9, 0.9, 0.1, 0.1])
    correct = np.array([True, False, False, False])
    assert expected_calibration_error(scores, correct) == pytest.approx(0.25)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0
    # One bin is .04 wide: .51 and .53 fall into different ones, .521 and .53 into the same.
    two = np.array([True, False])
    assert expected_calibration_error(np.array([0.51, 0.53]), two) == pytest.approx(
        (0.49 + 0.53) / 2
    )
    assert expected_calibration_error(np.array([0.521, 0.53]), two) == pytest.approx(0.051 / 2)


def test_numbers_without_boxes_or_objects_are_null_in_json() -> None:
    nothing = score_quality(matches_of([], [], 0))
    assert nothing.as_json() == {"precision": None, "recall": None, "calibration_error": None}
    assert "precision -" in str(nothing)
    margins = score_quality(matches_of([1.5, -0.2], [True, False], 1))  # an SVM
    assert math.isnan(margins.calibration_error)
    assert margins.precision == 1


def test_the_best_threshold_lies_midway_below_the_best_score() -> None:
    """F1 after 1, 2, 3 and 4 boxes: 2/31, 4/32, 4/33, 6/34; after five: 6/35."""
    matches = matches_of([0.9, 0.8, 0.7, 0.6, 0.2], [True, True, False, True, False], 30)
    assert best_f1_thresholds(matches, 2)[0] == pytest.approx(0.4)


def test_equal_scores_are_one_point() -> None:
    matches = matches_of([0.9, 0.9, 0.5], [True, False, True], 30)
    # After two boxes 2/32, after three 4/33: a threshold between the first two boxes does not exist.
    assert best_f1_thresholds(matches, 2)[0] == 0.5


def test_a_class_with_few_objects_gets_the_pooled_threshold() -> None:
    matches = matches_of([0.9, 0.4], [True, False], 29)
    assert best_f1_thresholds(matches, 2) == pytest.approx([0.65, 0.65])


def test_there_is_no_threshold_without_true_boxes() -> None:
    for matches in (matches_of([0.9], [False], 30), matches_of([], [], 30), matches_of([], [], 0)):
        assert np.isnan(best_f1_thresholds(matches, 2)).all()
