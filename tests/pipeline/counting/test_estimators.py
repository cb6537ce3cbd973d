"""Totals and intervals: values worked out by hand, and what 1,000 draws of drawn worlds give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.counting import Cell, bootstrap, estimate, more_draws
from pipeline.counting.estimators import student_quantile
from tests.pipeline.counting.simulation import (
    FAULTS,
    MANY,
    REPEATED,
    Floats,
    coverage,
    crowds,
    measured,
    repeated,
    uniform_labels,
)


def cell(*values: float, largest: float = 0.0) -> Cell:
    return Cell(values=np.array(values)[:, None], largest=largest)


def none() -> Floats:
    return np.zeros(1)


def test_the_total_is_the_mean_of_count_over_probability() -> None:
    # Three draws: 2 objects at 1/10, 1 at 1/40, 0 at 1/10 -> 20, 40, 0: mean 20, variance 400.
    result = estimate([cell(2 / 0.1, 1 / 0.025, 0.0)], none(), MANY)
    assert result is not None
    assert result.total[0] == pytest.approx(20)
    assert result.standard_error[0] == pytest.approx(math.sqrt(400 / 3))
    assert result.interval.low[0] == 0
    assert result.interval.high[0] == pytest.approx(20 + 4.3027 * math.sqrt(400 / 3), abs=0.03)


def test_strata_add_up_and_so_do_their_variances() -> None:
    # Means 5 and 20; variances of the means 2/2 = 1 and 8/2 = 4.
    result = estimate([cell(4, 6), cell(18, 22)], none(), MANY)
    assert result is not None
    assert result.total[0] == 25
    assert result.standard_error[0] == pytest.approx(math.sqrt(1 + 4))
    # Welch and Satterthwaite: 5^2 / (1/1 + 16/1) = 1.47 degrees of freedom.
    assert result.quantile[0] == pytest.approx(student_quantile(25 / 17))


def test_draws_without_objects_do_not_prove_that_there_is_none() -> None:
    # 30 draws of 600 images at 1/600: with 95% confidence at most 3 in 30 of them have an object: 60.
    result = estimate([cell(*[0.0] * 30, largest=600)], none(), MANY)
    assert result is not None
    assert (result.total[0], result.interval.low[0]) == (0, 0)
    assert result.interval.high[0] == pytest.approx(60)


def test_of_several_strata_the_worst_unseen_image_counts() -> None:
    empty = [cell(0.0, 0.0, largest=10), cell(0.0, 0.0, 0.0, largest=60)]
    result = estimate(empty, none(), MANY)
    assert result is not None
    assert result.interval.high[0] == pytest.approx(3 * 60 / 3)


@pytest.mark.parametrize("cells", [[], [cell()], [cell(3.0)], [cell(1.0, 2.0), cell(3.0)]])
def test_fewer_than_two_draws_in_a_cell_are_unknown(cells: list[Cell]) -> None:
    assert (
        estimate([Cell(values=c.values.reshape(-1, 1), largest=1) for c in cells], none(), 9)
        is None
    )


def test_the_interval_does_not_end_below_what_was_counted() -> None:
    result = estimate([cell(5, 15, 10, 10)], np.array([9.0]), MANY)
    assert result is not None
    assert result.interval.low[0] == 9
    above = estimate([cell(5, 15, 10, 10)], np.array([12.0]), MANY)
    assert above is not None
    assert (above.interval.low[0], above.total[0]) == (10, 10)
    assert above.interval.high[0] >= 12


def test_where_every_image_was_counted_the_total_is_exact() -> None:
    result = estimate([cell(4, 6, largest=50)], np.array([7.0]), 0)
    assert result is not None
    assert (result.interval.low[0], result.total[0], result.interval.high[0]) == (7, 7, 7)


def test_unseen_objects_are_at_most_as_many_as_the_draws_allow_for() -> None:
    # One image of each draw has an object, so t se = 0 and the upper end without unseen objects is 40.
    result = estimate([cell(40.0, 40.0, largest=1e6)], none(), MANY)
    assert result is not None
    assert result.interval.high[0] == 80


def test_two_images_that_nobody_counted_can_hide_two_objects() -> None:
    result = estimate([cell(0.0, 0.0, largest=600)], none(), 2)
    assert result is not None
    assert result.interval.high[0] == 2


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (100, 1.9840), (1e6, 1.96)],
)
def test_student_quantiles_are_those_of_the_tables(freedom: float, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, abs=1e-3)


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_even_draws() -> None:
    values = np.random.default_rng(0).normal(100, 10, (2000, 1))
    again = bootstrap([Cell(values=values, largest=1)], 0)
    error = values.std() / math.sqrt(2000)
    assert again.low[0] == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert again.high[0] == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_wished_width_is_reached_with_as_many_draws_as_it_says() -> None:
    values = np.random.default_rng(1).exponential(10, (200, 1))
    result = estimate([Cell(values=values, largest=30)], none(), MANY)
    assert result is not None
    (more,) = more_draws(result, 0.1)
    assert more is not None
    many = np.tile(values, ((200 + more) // 200 + 1, 1))[: 200 + more]
    later = estimate([Cell(values=many, largest=30)], none(), MANY)
    assert later is not None
    width = (later.interval.high[0] - later.interval.low[0]) / later.total[0]
    assert width == pytest.approx(0.1, rel=0.03)
    assert more_draws(result, 100.0) == [0]


def test_no_number_of_draws_is_told_for_a_total_of_zero() -> None:
    result = estimate([cell(0.0, 0.0, largest=5)], none(), MANY)
    assert result is not None
    assert more_draws(result, 0.1) == [None]


# --- Simulation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by_prefix", [False, True], ids=["one stratum", "five strata"])
@pytest.mark.parametrize("fault", FAULTS)
def test_nominal_intervals_cover_and_totals_are_unbiased(fault: str, by_prefix: bool) -> None:
    """Classes common, medium and rare, and their sum; a prefix is empty; 200 of 50,000 images are drawn."""
    drawn = repeated(fault, 200, by_prefix)
    truth = drawn["truth"]
    covered = coverage(drawn)
    assert covered.min() >= 0.93, covered
    noise = drawn["total"].std(0) / math.sqrt(REPEATED)
    assert np.all(np.abs(drawn["total"].mean(0) - truth) < 3.5 * noise)


@pytest.mark.parametrize(("fault", "factor"), [("missed", 6), ("doubled", 7), ("confused", 7)])
def test_uniform_samples_need_many_times_the_labels_for_the_same_width(
    fault: str, factor: float
) -> None:
    labels = uniform_labels(fault, repeated(fault, 200, False))
    assert labels[-1] / 200 > factor


def test_crowds_that_the_detector_cannot_count_are_a_known_limit() -> None:
    """Totals stay unbiased; the intervals are too narrow too often, as docs/counts.md says."""
    drawn = measured(crowds(5), 200, False)
    noise = drawn["total"].std(0) / math.sqrt(REPEATED)
    assert abs(drawn["total"][:, 0].mean() - drawn["truth"][0]) < 3.5 * noise[0]
    assert 0.7 < coverage(drawn)[0] < 0.93
