"""Tests of the number of steps that fits into a time."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from torch import nn

from fastrcnn.config import SolverConfig
from pipeline.training import time_budget
from pipeline.training.time_budget import (
    FINISH_START_S,
    LEAST_STEPS,
    SAVE_S,
    Length,
    Pace,
    TimeBudget,
    fit_length,
    measure_length,
    read_length,
    slowest,
    trial,
    trial_settings,
)

TEN = TimeBudget(minutes=10, began=0)


def test_the_rest_of_the_time_is_divided_by_the_time_of_a_step() -> None:
    # .97 * (600 - 55 - 5) = 523.8 s; ten validations of 9 s are less than a fifth.
    found = fit_length(TEN, Pace(step=0.5, validation=9), 55, None)
    assert (found.num_iterations, found.validate_every) == (867, 87)
    assert 867 * 0.5 + 10 * 9 <= 523.8 < 868 * 0.5 + 10 * 9


def test_the_calibration_at_the_end_takes_its_time_from_the_steps() -> None:
    # .97 * (600 - 55 - 5 - 40) = 485 s; ten validations of 9 s are less than a fifth.
    found = fit_length(TEN, Pace(step=0.5, validation=9, finish=40), 55, None)
    assert (found.num_iterations, found.finish_seconds) == (790, 40)
    late = fit_length(TEN, Pace(step=0.5, validation=9, finish=900), 55, None)
    assert late.num_iterations == 246  # a quarter of the ten minutes, as below


def test_each_time_is_that_of_the_slowest_worker() -> None:
    paces = [Pace(step=1, validation=9, finish=30), Pace(step=2, validation=8, finish=40)]
    assert slowest(paces) == Pace(step=2, validation=9, finish=40)


@pytest.mark.parametrize(
    ("num_validation", "num_final", "num_detected"), [(0, 0, 0), (4, 4, 2), (0, 4, 2)]
)
def test_a_trial_measures_detection_for_validations_and_for_the_end(
    num_validation: int, num_final: int, num_detected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock moves by 1 s a look, so two images take 1 s."""
    clock = iter(range(100))
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(time_budget, "train_step", lambda *_: {})
    settings = trial_settings(SolverConfig(), 0, 0, 1)
    pace = trial(
        nn.Identity(), Mock(), lambda _: Mock(), settings, lambda: num_detected,
        num_validation, num_final,
    )  # fmt: skip
    assert pace.step == 1
    assert pace.validation == SAVE_S + num_validation / 2
    assert pace.finish == (FINISH_START_S + 1.5 * 4 / 2 if num_final else 0)


def test_long_validations_become_fewer() -> None:
    # A fifth of 523.8 s has room for three validations of 30 s: 433.8 s are left.
    found = fit_length(TEN, Pace(step=0.5, validation=30), 55, None)
    assert (found.num_iterations, found.validate_every) == (867, 289)
    found = fit_length(TEN, Pace(step=0.5, validation=300), 55, None)
    assert (found.num_iterations, found.validate_every) == (447, 447)


def test_a_given_number_of_steps_between_validations_is_kept() -> None:
    found = fit_length(TEN, Pace(step=0.5, validation=5), 55, 10)
    assert (found.num_iterations, found.validate_every) == (523, 10)  # 523.8 / (.5 + 5 / 10)


@pytest.mark.parametrize("spent", [590, 601, 1e9])
def test_a_time_that_is_over_leaves_a_quarter_of_it(spent: float) -> None:
    found = fit_length(TEN, Pace(step=0.5, validation=9), spent, None)
    # 150 s, of which three validations take 27 s
    assert (found.num_iterations, found.validate_every) == (246, 82)
    short = fit_length(replace(TEN, minutes=0.01), Pace(step=0.5, validation=9), spent, None)
    assert (short.num_iterations, short.validate_every) == (LEAST_STEPS, LEAST_STEPS)


def test_a_length_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    stored = asdict(fit_length(TEN, Pace(step=0.5, validation=9), 55, None))
    del stored["finish_seconds"]
    (tmp_path / "length.json").write_text(json.dumps(stored))
    length = read_length(str(tmp_path))
    assert length is not None
    assert (length.num_iterations, length.finish_seconds) == (867, 0)


def test_a_resumed_run_keeps_what_was_measured(tmp_path: Path) -> None:
    def first() -> Pace:
        return Pace(step=0.5, validation=9)

    def again() -> Pace:
        raise AssertionError("it measures again")

    assert read_length(str(tmp_path)) is None
    budget = replace(TEN, minutes=1e9)
    length = measure_length(budget, str(tmp_path), None, first, 0, 1)
    assert isinstance(length, Length)
    assert read_length(str(tmp_path)) == length
    assert measure_length(TEN, str(tmp_path), 7, again, 0, 1) == length
