"""The distance between scores of two sets of images: by hand, and on resampled and changed scores."""

from __future__ import annotations

import numpy as np
import pytest

from fastrcnn.metrics import (
    ImageDetections,
    ScoreHistogram,
    find_shifts,
    histogram_of,
    measured_histogram,
    score_shift,
)
from fastrcnn.metrics.score_shift import histogram_json, histogram_of_json


def images(
    number: int, seed: int, *, sure: tuple[float, float] = (4.0, 1.0), share: float = 0.7
) -> list[ImageDetections]:
    """Images of two classes: `share` of them have objects; unsure boxes are in all."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(number):
        objects = random.poisson(2) if random.random() < share else 0
        boxes = random.poisson(8)
        # The scores of one image resemble each other, so boxes are no independent samples.
        quality = random.uniform(0.7, 1.0)
        scores = np.append(random.beta(*sure, objects) * quality, random.beta(0.3, 8, boxes))
        labels = random.choice([1, 2], len(scores), p=[0.8, 0.2])
        made.append(ImageDetections(boxes=np.zeros((len(scores), 4)), labels=labels, scores=scores))
    return made


def test_the_shift_is_the_area_between_the_cumulative_curves() -> None:
    first, second = np.zeros((1, 10)), np.zeros((1, 10))
    first[0, 0], second[0, 3] = 5, 2
    assert score_shift(first, second) == pytest.approx([0.3])
    second[0, 0] = 2  # half of the weight stays
    assert score_shift(first, second) == pytest.approx([0.15])
    assert np.isnan(score_shift(first, np.zeros((1, 10)))[0])


def test_a_box_weighs_as_much_as_its_score() -> None:
    one = ImageDetections(
        boxes=np.zeros((3, 4)), labels=np.array([1, 1, 2]), scores=np.array([0.9, 0.05, 1.0])
    )
    histogram = histogram_of([one], 2, bins=10)
    assert histogram.weights.sum(1) == pytest.approx([1.95, 0.95, 1.0])
    assert histogram.weights[1, 9] == pytest.approx(0.9)
    assert histogram.weights[2, 9] == pytest.approx(1.0)


@pytest.mark.parametrize(("calibrated", "scored"), [(60, 60), (60, 600), (200, 50)])
def test_images_of_the_same_kind_are_not_reported(calibrated: int, scored: int) -> None:
    fired = 0
    for seed in range(8):
        before = measured_histogram(images(calibrated, 1000 + seed), 2, seed=seed)
        fired += bool(find_shifts(histogram_of(images(scored, seed), 2), before))
    assert fired == 0


@pytest.mark.parametrize("changes", [{"sure": (2.0, 2.0)}, {"share": 0.02}])
def test_less_sure_scores_and_a_bucket_with_few_objects_are_reported(
    changes: dict[str, float],
) -> None:
    before = measured_histogram(images(200, 1), 2)
    shifts = find_shifts(histogram_of(images(400, 2, **changes), 2), before)  # type: ignore[arg-type]
    assert shifts
    assert shifts[0].mean_now < shifts[0].mean_before
    assert shifts[0].shift > shifts[0].limit


def test_few_expected_objects_say_nothing() -> None:
    before = measured_histogram(images(200, 1), 2)
    assert find_shifts(histogram_of(images(1, 2, sure=(2.0, 2.0)), 2), before) == []
    assert find_shifts(ScoreHistogram(images=0, weights=np.zeros((3, 50))), before) == []


def test_a_histogram_is_read_back_from_json() -> None:
    before = measured_histogram(images(50, 1), 2)
    again = histogram_of_json(histogram_json(before), 2)
    assert again.images == 50
    assert again.weights == pytest.approx(before.weights, abs=1e-3)
    assert again.noise is not None
    assert before.noise is not None
    assert again.noise == pytest.approx(before.noise, abs=1e-5)
    with pytest.raises(ValueError, match="3 classes"):
        histogram_of_json(histogram_json(before), 3)
    with pytest.raises(ValueError, match="no histogram"):
        histogram_of_json({"images": 3}, 2)


def test_images_that_stand_for_many_weigh_more() -> None:
    unsure, sure = images(40, 1, sure=(1.0, 4.0)), images(40, 2)
    counts = np.repeat([1.0, 1e6], 40)
    weighted = measured_histogram([*unsure, *sure], 2, weights=counts)
    assert score_shift(weighted.weights, histogram_of(sure, 2).weights)[0] < 1e-3
