"""Anchors and grid shapes fitted to boxes, compared with hand-computed ones and with all other partitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrcnn.anchors import cluster_centres, fit_anchors, fit_grid


def test_each_separate_group_has_one_centre() -> None:
    values = np.log([10.0, 10, 40, 160, 160, 160])
    np.testing.assert_allclose(np.exp(cluster_centres(values, 3)), [10, 40, 160])
    np.testing.assert_allclose(
        np.exp(cluster_centres(values, 2)), [10 ** (2 / 3) * 40 ** (1 / 3), 160]
    )


def test_centres_without_values_are_a_factor_of_root_two_apart() -> None:
    found = np.exp(cluster_centres(np.log([100.0]), 4))
    np.testing.assert_allclose(found, [50, 100 / 2**0.5, 100, 100 * 2**0.5])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 96), min_size=3, max_size=8), st.integers(1, 3))
def test_no_other_partition_has_a_smaller_distance(bins: list[int], count: int) -> None:
    values = np.array(sorted(bins)) / 32
    centres = cluster_centres(values, count)
    assert len(centres) == count
    own = np.square(values[:, None] - centres).min(axis=1).sum()
    for cuts in itertools.combinations(range(1, len(values)), min(count, len(set(bins))) - 1):
        parts = np.split(values, cuts)
        assert own <= sum(((part - part.mean()) ** 2).sum() for part in parts) + 1e-9


def test_small_sides_go_to_fine_maps_and_ratios_are_height_over_width() -> None:
    # Squares of 10 and 20, boxes of 80 x 20 and 20 x 80 (side 40): 4 sides, 3 ratios.
    sizes = np.array([[10.0, 10], [20, 20], [80, 20], [20, 80]] * 5 + [[80, 80]])
    sides, ratios = fit_anchors(sizes, 4)
    assert sides == ((10.0,), (20.0,), (40.0,), (80.0,))
    assert ratios == (0.25, 1.0, 4.0)
    one_map, _ = fit_anchors(sizes, 1)
    assert one_map == ((7.07, 10.0, 20.0, 40.0, 80.0),)


def test_the_order_of_boxes_changes_nothing() -> None:
    sizes = np.exp(np.random.default_rng(0).normal(3, 1, (200, 2)))
    shuffled = np.random.default_rng(1).permutation(sizes)
    assert fit_anchors(sizes, 3) == fit_anchors(shuffled, 3)
    assert fit_grid(sizes / 500) == fit_grid(shuffled / 500)


def test_a_fitted_grid_has_the_shapes_of_the_boxes() -> None:
    tall, flat = [0.2, 0.05], [0.1, 0.4]  # sides .1 and .2, ratios 4 and 1/4: no tall one of .2
    shapes = fit_grid(np.array([tall] * 9 + [flat] * 9))
    assert shapes == ((0.1, 0.4), (0.2, 0.05))


@pytest.mark.parametrize("count", [1, 7])
def test_a_few_boxes_are_enough(count: int) -> None:
    sizes = np.full((count, 2), 30.0)
    sides, ratios = fit_anchors(sizes, 1)
    assert 30.0 in sides[0]
    assert 1.0 in ratios
    assert fit_grid(sizes / 600) == ((0.05, 0.05),)
