"""Tests of the order of the images: epochs of fixed length, and images of rare classes more often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.annotations import LabelledImage
from pipeline.training.examples import Example
from pipeline.training.order import ImageOrder, image_order, repeat_factors, resample


def epochs_of(order: ImageOrder, count: int) -> list[list[int]]:
    size = order.num_images
    return [[order.at(e * size + i) for i in range(size)] for e in range(count)]


@pytest.mark.parametrize("factors", [None, np.ones(7)])
def test_each_epoch_has_every_image_once_in_a_new_order(factors: np.ndarray | None) -> None:
    epochs = epochs_of(ImageOrder(7, 1, factors), 4)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_order_without_repeats_is_that_of_2026_11_29() -> None:
    """Old outputs are resumed with it."""
    assert epochs_of(ImageOrder(5, 3), 2) == [
        np.random.default_rng([3, epoch]).permutation(5).tolist() for epoch in (0, 1)
    ]


def test_repeat_factors_are_those_of_lvis() -> None:
    classes = [{1}, {1}, {1}, {1, 2}, set()]  # shares .8 and .2
    factors = repeat_factors(classes, 0.45)
    assert factors == pytest.approx([1, 1, 1, 1.5, 1])  # sqrt(.45 / .2)
    assert repeat_factors(classes, 1.8) == pytest.approx([1.5, 1.5, 1.5, 3, 1])
    assert repeat_factors([set()], 0.5).tolist() == [1]


def test_points_at_equal_distances_choose_the_images() -> None:
    """The factors end at 1, 2 and 4. Points at .4, 1.7333 and 3.0667 are in images 0, 1 and 2."""
    factors = np.array([1.0, 1, 2])
    assert resample(factors, 0.3).tolist() == [0, 1, 2]
    assert resample(factors, 0.8).tolist() == [1, 2, 2]  # 1.0667, 2.4, 3.7333


def test_an_image_comes_as_often_as_its_factor_says() -> None:
    factors = np.array([1, 1, 1, 1, 1, 1, 1.5, 2.5])  # their sum is 10
    order = ImageOrder(8, 5, factors)
    epochs = epochs_of(order, 2000)
    counts = Counter(index for epoch in epochs for index in epoch)
    assert [counts[i] / 2000 for i in range(8)] == pytest.approx(factors * 0.8, abs=0.03)
    in_an_epoch = {epoch.count(7) for epoch in epochs}  # 2 on average
    assert in_an_epoch == {2}
    assert {epoch.count(0) for epoch in epochs} == {0, 1}  # .8 on average


def test_an_order_depends_on_nothing_but_its_arguments() -> None:
    factors = np.array([1.0, 1, 3])
    forwards, backwards = (ImageOrder(3, 2, factors) for _ in range(2))
    places = range(60)
    assert [forwards.at(p) for p in places] == [backwards.at(p) for p in reversed(places)][::-1]
    other = ImageOrder(3, 3, factors)
    assert [other.at(p) for p in places] != [forwards.at(p) for p in places]


def test_crowds_do_not_count_as_objects_of_a_class() -> None:
    def example(label: int, crowd: bool) -> Example:
        image = LabelledImage(
            image_uri="",
            annotation_uri="",
            gt_boxes=np.array([[0, 0, 5, 5]], np.float32),
            gt_labels=np.array([label]),
            difficult=np.array([False]),
            crowd=np.array([crowd]),
            image_id="",
        )
        return Example(image, np.zeros((0, 4), np.float32))

    examples = [example(1, False), example(1, False), example(2, False), example(2, True)]
    factors = image_order(examples, 0.81, seed=0).factors
    assert factors == pytest.approx([np.sqrt(1.62), np.sqrt(1.62), 1.8, 1])
    assert image_order(examples, 0.0, seed=0).factors is None
