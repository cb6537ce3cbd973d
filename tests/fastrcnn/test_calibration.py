"""Calibration: the curve rises, is finite for any data, and finds the numbers that made the data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from fastrcnn import calibration
from fastrcnn.calibration import (
    MIN_SLOPE,
    SAME,
    calibrate,
    fit_calibration,
    limit_to_one_class,
    logit,
    uncalibrate,
)

ODDS = 1 / (1 + math.e)  # sigmoid(-1)


def sampled(a: float, b: float, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and truths of which a share sigmoid(a logit(score) + b) is true."""
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 2.0, count)
    return 1 / (1 + np.exp(-x)), rng.random(count) < 1 / (1 + np.exp(-(a * x + b)))


def test_it_is_the_sigmoid_of_a_line_in_the_logit() -> None:
    scores = torch.tensor([0.5, 0.5, math.e / (1 + math.e)])  # logits 0, 0, 1
    result = calibrate(scores, torch.tensor([1, 2, 1]), ((1.0, -1.0), (2.0, 0.0)))
    assert result.tolist() == pytest.approx([ODDS, 0.5, 0.5])
    assert result.dtype == torch.float32


def test_uncalibrate_inverts_calibrate_for_each_class() -> None:
    curves = ((2.0, -5.0), (0.5, 1.0))
    before = torch.from_numpy(uncalibrate(0.3, curves))
    assert calibrate(before, torch.tensor([1, 2]), curves).tolist() == pytest.approx([0.3, 0.3])
    assert uncalibrate(0.0, curves).tolist() == [0, 0]  # the cut at 0 keeps every box
    assert uncalibrate(1.0, curves).tolist() == [1, 1]


@pytest.mark.parametrize("numbers", [(1.0, 0.0), (2.0, -5.0), (0.97, -1.0), (3.0, -7.0)])
def test_the_fit_finds_the_numbers_that_made_the_data(numbers: tuple[float, float]) -> None:
    scores, correct = sampled(*numbers, 20_000)
    ((a, b),) = fit_calibration(scores, correct, np.ones(20_000, int), 1)
    assert (a, b) == pytest.approx(numbers, abs=0.25)


def test_after_the_fit_the_scores_sum_to_the_number_of_true_boxes() -> None:
    scores, correct = sampled(2.0, -5.0, 20_000)
    curves = fit_calibration(scores, correct, np.ones(20_000, int), 1)
    fitted = calibrate(torch.from_numpy(scores), torch.ones(20_000, dtype=torch.int64), curves)
    assert float(fitted.sum()) == pytest.approx(correct.sum(), rel=0.01)


@pytest.mark.parametrize(
    ("scores", "correct"),
    [
        ([], []),
        ([0.9], [True]),
        ([0.9], [False]),
        ([0.0, 1.0], [True, False]),
        ([0.9] * 1000, [True] * 1000),
        ([0.9] * 1000, [False] * 1000),
        (list(np.linspace(0, 1, 1000)), list(np.linspace(0, 1, 1000) < 0.5)),  # upside down
        (list(np.linspace(0, 1, 1000)), list(np.linspace(0, 1, 1000) > 0.5)),  # separable
    ],
    ids=["none", "true", "false", "limits", "all true", "all false", "falling", "separable"],
)
def test_any_data_give_finite_numbers_and_a_rising_curve(
    scores: list[float], correct: list[bool]
) -> None:
    for num_classes in (1, 3):
        labels = np.ones(len(scores), int)
        curves = fit_calibration(scores, correct, labels, num_classes)
        assert len(curves) == num_classes
        assert all(a >= MIN_SLOPE and math.isfinite(a) and math.isfinite(b) for a, b in curves)


def test_no_data_change_no_score() -> None:
    assert fit_calibration([], [], [], 2) == (SAME, SAME)


def test_all_false_boxes_score_below_a_half_and_all_true_ones_above() -> None:
    labels = np.ones(50, int)
    for correct in (False, True):
        curves = fit_calibration(np.full(50, 0.6), np.full(50, correct), labels, 1)
        score = calibrate(torch.tensor([0.6]), torch.tensor([1]), curves).item()
        assert (score > 0.9) if correct else (score < 0.1)


def test_a_class_with_few_boxes_stays_near_the_shared_curve() -> None:
    scores, correct = sampled(2.0, -5.0, 5000)
    labels = np.ones(5002, int)
    labels[5000:] = 2  # two boxes, both true although the shared curve doubts them
    both = fit_calibration(
        np.append(scores, [0.6, 0.6]), np.append(correct, [True, True]), labels, 3
    )
    doubted, shared = (
        calibrate(torch.tensor([0.6]), torch.tensor([label]), both).item() for label in (2, 3)
    )
    assert shared < doubted < 0.15


def test_a_class_without_objects_gets_the_shared_curve() -> None:
    scores, correct = sampled(1.0, 0.0, 1000)
    labels = np.where(np.arange(1000) < 500, 1, 2)
    correct[500:] = False
    known = fit_calibration(scores, correct, labels, 3, has_objects=[True, False, True])
    assert known[1] == known[2]
    fitted = fit_calibration(scores, correct, labels, 3)
    assert fitted[1] != fitted[2]


@pytest.mark.parametrize("a", [MIN_SLOPE, 1.0, 3.0])
def test_the_order_of_the_boxes_of_a_class_stays(a: float) -> None:
    scores = torch.linspace(0.001, 0.999, 999)
    labels = torch.ones(999, dtype=torch.int64)
    assert bool((calibrate(scores, labels, ((a, -2.0),)).diff() > 0).all())


def test_the_ends_of_the_range_have_finite_logits() -> None:
    assert np.isfinite(logit([0.0, 1.0])).all()
    ends = calibrate(torch.tensor([0.0, 1.0]), torch.tensor([1, 1]), ((1.0, 0.0),))
    assert ends.tolist() == pytest.approx([0, 1])


def test_a_detection_that_stands_for_three_counts_as_three() -> None:
    scores, true = sampled(1.5, -1.0, 300)
    labels = np.ones(300, np.int64)
    heavy = np.arange(300) % 2 == 0
    weighted = fit_calibration(scores, true, labels, 1, weights=np.where(heavy, 1.5, 0.5))
    # Three of each heavy one and one of each light one are the same data, twice as many.
    repeats = np.where(heavy, 3, 1)
    repeated = fit_calibration(
        np.repeat(scores, repeats), np.repeat(true, repeats), np.ones(600, np.int64), 1
    )
    assert weighted[0] == pytest.approx(repeated[0], abs=0.05)
    plain = fit_calibration(scores, true, labels, 1)
    assert fit_calibration(scores, true, labels, 1, weights=np.full(300, 7.0))[0] == pytest.approx(
        plain[0]
    )


def by_loops(
    boxes: torch.Tensor, labels: list[int], scores: list[float], iou: float
) -> list[float]:
    """Limit the scores, box by box, best first."""
    limited = list(scores)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    for rank, i in enumerate(order):
        for j in order[:rank]:
            same = float(box_iou(boxes[i : i + 1], boxes[j : j + 1])) > iou
            if same and labels[i] != labels[j]:
                limited[i] = min(limited[i], 1 - limited[j])
    return limited


@pytest.mark.parametrize("seed", range(20))
def test_a_score_is_at_most_what_better_boxes_of_other_classes_leave(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_PAIRS_AT_ONCE", 50 if seed % 2 else 10**6)
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(30, 2, generator=draw) * 12
    boxes = torch.cat([corners, corners + 5 + 5 * torch.rand(30, 2, generator=draw)], dim=1)
    labels = torch.randint(1, 4, (30,), generator=draw)
    scores = (torch.rand(30, generator=draw) * 20).round() / 20  # with ties
    result = limit_to_one_class(boxes, labels, scores, 0.4)
    assert result.tolist() == pytest.approx(by_loops(boxes, labels.tolist(), scores.tolist(), 0.4))
    again = limit_to_one_class(boxes, labels, result, 0.4)
    pairs = [
        (i, j)
        for i in range(30)
        for j in range(i)
        if labels[i] != labels[j] and box_iou(boxes[[i]], boxes[[j]]) > 0.4
    ]
    assert all(result[i] + result[j] <= 1 + 1e-6 for i, j in pairs)
    torch.testing.assert_close(again, result)


def test_one_class_of_no_boxes_is_nothing() -> None:
    empty = torch.zeros(0)
    assert limit_to_one_class(empty.reshape(0, 4), empty.long(), empty, 0.5).shape == (0,)
