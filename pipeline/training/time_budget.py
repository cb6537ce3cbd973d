"""Fit the number of steps to a time: --minutes.

Every worker takes some trial steps and detects on some images, and throws the results away: the
training then starts from the initial weights. So it takes the same steps as a training with --iterations. The
number is written to <output>/length.json before step 1, and a resumed run reads it there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fastrcnn.config import SolverConfig
from pipeline import storage
from pipeline.runtime.prefetch import prefetch
from pipeline.training.examples import Batch
from pipeline.training.step import StepSettings, train_step

logger = logging.getLogger(__name__)

LENGTH_FILE = "length.json"
SKIPPED, MEASURED = 2, 8
"""Trial steps: the first ones are slower, as memory and algorithms are not ready."""
TRIAL_IMAGES = 4
"""Validation images of each worker in the trial."""
TRIAL_STEPS = 1_000_000
"""Steps that the learning rate of the trial counts on: it stays within the warm-up."""
MOST_VALIDATIONS = 10
VALIDATION_SHARE = 0.2
"""Largest share of the time for validations, unless --validate-every is given."""
SAVE_S, END_S = 1.0, 5.0
"""Time to write a checkpoint, and to write the results."""
FINISH_START_S, FINISH_FACTOR = 10.0, 1.5
"""Time to start the processes that detect after the last step; and their time for an image, compared with a
validation: they also make the proposals of the first 100 images once more, to measure them."""
LEAST_SHARE = 0.25
"""Share of the minutes that the steps get at least, also where the start has taken the time."""
LEAST_STEPS = 10
MARGIN = 0.97
"""Share of the remaining time that is used; steps get slower now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBudget:
    """The time of a training."""

    minutes: float
    began: float
    """`time.time()` at the start of the command."""
    num_final: int = 0
    """Images that the best checkpoint detects on after the last step, to calibrate its scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Measured times, in seconds. With several workers, those of the slowest."""

    step: float
    validation: float
    """A whole validation and its checkpoint."""
    finish: float = 0.0
    """Detection with the best checkpoint after the last step, to calibrate its scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """The number of steps that was chosen, and what it follows from. Stored in `LENGTH_FILE`."""

    num_iterations: int
    validate_every: int
    minutes: float
    step_seconds: float
    validation_seconds: float
    seconds_before: float
    """Time from the start of the command to the first step, without the trial's share of a resumed run."""
    finish_seconds: float = 0.0
    """Time after the last step. 0 in files of earlier versions, which did not count it."""


def fit_length(budget: TimeBudget, pace: Pace, spent: float, validate_every: int | None) -> Length:
    """Choose the number of steps, and the steps between validations.

    Args:
        spent: seconds since the start of the command.
        validate_every: --validate-every, if given.

    Example:
        10 minutes, 55 s spent, .5 s a step and 9 s a validation leave 523.8 s. Ten validations take 90 s,
        less than a fifth, so 867 steps fit, with a validation every 87 steps.
    """
    rest = 60 * budget.minutes - spent - END_S - pace.finish
    left = max(MARGIN * rest, _least_seconds(budget.minutes))
    if validate_every is not None:
        steps = int(left / (pace.step + pace.validation / validate_every))
        every = validate_every
    else:
        fitting = int(VALIDATION_SHARE * left / pace.validation)
        count = max(1, min(MOST_VALIDATIONS, fitting))
        steps = int((left - count * pace.validation) / pace.step)
        every = max(1, -(-max(steps, LEAST_STEPS) // count))
    return Length(
        num_iterations=max(steps, LEAST_STEPS),
        validate_every=every,
        minutes=budget.minutes,
        step_seconds=round(pace.step, 4),
        validation_seconds=round(pace.validation, 3),
        seconds_before=round(spent, 1),
        finish_seconds=round(pace.finish, 1),
    )


def _least_seconds(minutes: float) -> float:
    return LEAST_SHARE * 60 * minutes


def read_length(output: str) -> Length | None:
    """Read the length that an earlier start of this run measured; None if there is none."""
    uri = storage.join(output, LENGTH_FILE)
    if not storage.exists(uri):
        return None
    stored = json.loads(storage.read_bytes(uri))
    # Another version may have written fewer or more fields.
    return Length(**{f.name: stored[f.name] for f in fields(Length) if f.name in stored})


def measure_length(
    budget: TimeBudget,
    output: str,
    validate_every: int | None,
    measure: Callable[[], Pace],
    rank: int,
    world_size: int,
) -> Length:
    """Read the length of this run, or measure it. All ranks call it together, and all get the same.

    Args:
        measure: measures this rank's pace.
    """
    length = _same_for_all(read_length(output) if rank == 0 else None, world_size)
    if length is not None:
        logger.info("%d steps, as measured when this training began", length.num_iterations)
        return length
    pace = slowest(_of_all(measure(), world_size))
    if rank == 0:
        length = fit_length(budget, pace, max(0.0, time.time() - budget.began), validate_every)
        data = json.dumps(asdict(length), indent=1).encode()
        storage.write_bytes(storage.join(output, LENGTH_FILE), data)
        _log(length)
    length = _same_for_all(length, world_size)
    assert length is not None
    return length


def trial(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    load: Callable[[int], Batch],
    settings: StepSettings,
    detect: Callable[[], int],
    num_validation: int,
    num_final: int,
) -> Pace:
    """Take trial steps and detect on some images. Changes the weights.

    Args:
        load: gives this rank's batch of a step.
        detect: detects on some images, as a validation does; returns their number.
        num_validation: the number of images of a validation.
        num_final: the number of images that the best checkpoint detects on after the last step.
    """
    began = [time.monotonic()]
    steps = range(SKIPPED + MEASURED)
    for step, batch in zip(steps, prefetch(load, steps), strict=True):
        train_step(objective, optimizer, batch, step, settings)
        began.append(time.monotonic())
    second = (began[-1] - began[SKIPPED]) / MEASURED
    started = time.monotonic()
    some = detect()
    each = (time.monotonic() - started) / some if some else 0.0
    finish = FINISH_START_S + FINISH_FACTOR * each * num_final if num_final else 0.0
    return Pace(step=second, validation=SAVE_S + each * num_validation, finish=finish)


def trial_settings(solver: SolverConfig, seed: int, rank: int, world_size: int) -> StepSettings:
    """Give the settings of the trial's steps."""
    return StepSettings(
        solver=solver, num_iterations=TRIAL_STEPS, seed=seed, rank=rank, world_size=world_size
    )


def _log(length: Length) -> None:
    logger.info(
        "%g minutes: %d steps fit, with a validation every %d. A step takes %.2f s, a validation %.1f s,"
        " the calibration at the end %.0f s; %.0f s have passed",
        length.minutes,
        length.num_iterations,
        length.validate_every,
        length.step_seconds,
        length.validation_seconds,
        length.finish_seconds,
        length.seconds_before,
    )
    around = length.seconds_before + length.finish_seconds + END_S
    late = around + _least_seconds(length.minutes) - 60 * length.minutes
    if late > 0:
        logger.warning(
            "--minutes %g is short for this machine, because the start took %.0f s. The training takes a"
            " quarter of the minutes for its steps, and ends later",
            length.minutes,
            length.seconds_before,
        )


def _same_for_all(length: Length | None, world_size: int) -> Length | None:
    """Give all ranks what rank 0 has."""
    values: list[Any] = [length]
    if world_size > 1:
        dist.broadcast_object_list(values, src=0)
    first: Length | None = values[0]
    return first


def _of_all(pace: Pace, world_size: int) -> list[Pace]:
    """Give the pace of each rank."""
    paces: list[Any] = [pace] * world_size
    if world_size > 1:
        dist.all_gather_object(paces, pace)
    return paces


def slowest(paces: Sequence[Pace]) -> Pace:
    """Give the largest of each time."""
    return Pace(
        step=max(pace.step for pace in paces),
        validation=max(pace.validation for pace in paces),
        finish=max(pace.finish for pace in paces),
    )
