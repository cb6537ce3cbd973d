"""Probabilities worked out by hand, and draws that follow them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.counting import Design, Walk, allocate, class_shares, floors_for


def test_the_floor_is_half_of_the_mean_expected_count() -> None:
    # 8 objects in 4 images: mean 2. Nothing in 10 images: as if there were one object.
    floors = floors_for(np.array([[8.0], [0.0]]), np.array([4, 10]))
    assert floors.tolist() == [[1.0], [0.05]]


def test_images_are_drawn_in_proportion_to_what_is_expected_and_none_is_left_out() -> None:
    expected = np.array([[3.0], [0.0], [0.5], [0.0]])
    floor = np.array([[1.0]])
    design = Design(floors=floor, masses=np.array([[6.0]]))  # 3 + 1 + 1 + 1
    q = design.probabilities(expected, np.zeros(4, np.int64))
    assert q == pytest.approx(np.array([3, 1, 1, 1]) / 6)
    assert design.smallest() == pytest.approx([1 / 6])


def test_classes_share_the_draws_by_the_root_of_what_is_expected() -> None:
    masses = np.array([[9.0, 1.0]])
    assert class_shares(masses) == pytest.approx(np.array([[0.75, 0.25]]))
    design = Design(floors=np.full((1, 2), 1e-9), masses=masses)
    q = design.probabilities(np.array([[9.0, 0.0], [0.0, 1.0]]), np.zeros(2, np.int64))
    assert q == pytest.approx([0.75, 0.25])


def test_each_stratum_gets_draws_for_its_objects_and_for_its_images() -> None:
    # 98 free draws: two thirds by roots (10 : 0.1), a third by images (1 : 9), and two for each.
    draws = allocate(np.array([100.0, 0.01]), np.array([100, 900]), 102)
    assert draws.sum() == 102
    assert draws[1] == pytest.approx(2 + 98 * (2 / 3 * 0.1 / 10.1 + 1 / 3 * 0.9), abs=1)


def test_a_stratum_without_images_gets_no_draw() -> None:
    assert allocate(np.array([5.0, 0.0]), np.array([10, 0]), 7).tolist() == [7, 0]


@pytest.mark.parametrize(("images", "budget"), [([1, 1], 3), ([0], 5)])
def test_a_budget_below_two_draws_a_stratum_is_refused(images: list[int], budget: int) -> None:
    with pytest.raises(ValueError, match="strata"):
        allocate(np.ones(len(images)), np.array(images), budget)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_walk_draws_the_same_in_batches_of_any_size(batch: int) -> None:
    random = np.random.default_rng(0)
    strata = random.integers(0, 3, 1000)
    q = random.random(1000)
    for stratum in range(3):
        q[strata == stratum] /= q[strata == stratum].sum()
    walk = Walk([50, 0, 20], seed=4)
    whole = Walk([50, 0, 20], seed=4)
    whole.pass_by(np.arange(1000), strata, q)
    for first in range(0, 1000, batch):
        part = slice(first, first + batch)
        walk.pass_by(np.arange(1000)[part], strata[part], q[part])
    rows, of, probabilities = walk.finish()
    assert rows.tolist() == whole.finish()[0].tolist()
    assert np.bincount(of, minlength=3).tolist() == [50, 0, 20]
    assert np.array_equal(strata[rows], of)
    assert np.array_equal(q[rows], probabilities)


def test_images_are_drawn_as_often_as_their_probability_says() -> None:
    q = np.array([0.5, 0.3, 0.2])
    walk = Walk([100_000], seed=0)
    walk.pass_by(np.arange(3), np.zeros(3, np.int64), q)
    rows, _, _ = walk.finish()
    assert np.bincount(rows) / 100_000 == pytest.approx(q, abs=0.006)  # four standard deviations


def test_a_sum_that_ends_below_one_loses_no_draw() -> None:
    walk = Walk([1000], seed=0)
    walk.pass_by(np.arange(2), np.zeros(2, np.int64), np.array([0.5, 0.4]))
    rows, _, probabilities = walk.finish()
    assert len(rows) == 1000
    assert set(probabilities.tolist()) == {0.5, 0.4}
