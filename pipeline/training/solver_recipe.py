"""Choose batch, length, optimizer and learning rate, for `pipeline.training.recipe`. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from fastrcnn.config import SolverConfig
from pipeline.config.numbers import LENGTHS, flag_of
from pipeline.training.situation import Choice, Situation

CPU_BATCH, GPU_BATCH = 2, 16
STEPS_PER_EPOCH = 25
"""A pass over the images has about so many steps or more, if the batch may be smaller for it."""
LEAST_EPOCHS, LEAST_STEPS, STEPS_PER_CLASS, MOST_STEPS = 12, 600, 250, 90_000
"""`MOST_STEPS` is detectron2's 1x schedule for COCO."""
MOST_WARMUP = 500
ADAMW_RATE = 2e-4
LEAST_SGD_RATE = 0.001
"""A learning rate from here on that a flag gives is one of SGD: AdamW would diverge."""


def solver_choices(at: Situation, known: dict[str, Any]) -> Iterator[Choice]:
    yield _batch(at)
    batch = known["solver.batch_size"]
    steps = None
    if at.minutes is None:
        if not any(known.get(name) is not None for name in LENGTHS):
            yield _steps(at, batch)
        steps = _given_steps(at, known, batch)
    optimizer = _optimizer(known)
    yield optimizer
    yield _rate(str(known.get("solver.optimizer", optimizer.value)), batch)
    yield _warmup(steps)
    reason = (
        "ranks validated checkpoints by the mean over IoU .5 to .95, which sees how well boxes fit"
    )
    yield Choice("solver.best_by", "map50_95", reason)
    yield Choice("solver.schedule", "cosine", "falls to 0 at the last step, whatever the length")


def _optimizer(known: Mapping[str, Any]) -> Choice:
    """Choose AdamW, unless a flag gives a number that only SGD has."""
    given = [n for n in ("solver.momentum", "solver.caffe_momentum") if known.get(n)]
    if known.get("solver.learning_rate", 0.0) >= LEAST_SGD_RATE:
        given.append("solver.learning_rate")
    if given:
        return Choice("solver.optimizer", "sgd", f"{flag_of(given[0], known[given[0]])} is for SGD")
    reason = "better than SGD in every short training compared (docs/ablations.md)"
    return Choice("solver.optimizer", "adamw", reason)


def _rate(optimizer: str, batch: int) -> Choice:
    modern = SolverConfig.modern(optimizer=optimizer)
    if optimizer == "adamw":
        rate = min(ADAMW_RATE, modern.rate_for(batch))
        reason = f"measured at 2 images a step, and not raised for the {batch} of this training"
        return Choice("solver.learning_rate", rate, reason)
    per = f"{modern.learning_rate:g} at {modern.batch_size} images"
    reason = f"{per}, in proportion to the {batch} of a step"
    return Choice("solver.learning_rate", modern.rate_for(batch), reason)


def _batch(at: Situation) -> Choice:
    workers, images = at.num_workers, at.labels.num_images
    if at.on_gpu:
        batch = GPU_BATCH
        while batch > 2 and images / batch < STEPS_PER_EPOCH:
            batch //= 2
        reason = (
            f"for {images} images on a GPU: {GPU_BATCH} at most, {STEPS_PER_EPOCH} steps a pass"
        )
    else:
        batch, reason = CPU_BATCH, "on a CPU, more steps teach more than larger ones"
    multiple = workers * max(1, round(batch / workers))
    if multiple != batch:
        reason += f"; a multiple of the {workers} workers"
    return Choice("solver.batch_size", multiple, reason)


def _steps(at: Situation, batch: int) -> Choice:
    labels = at.labels
    lengths = {
        f"{LEAST_EPOCHS} passes over {labels.num_images} images": math.ceil(
            LEAST_EPOCHS * labels.num_images / batch
        ),
        f"{LEAST_STEPS} steps or more": LEAST_STEPS,
        f"{STEPS_PER_CLASS} for each of {labels.num_classes} classes": STEPS_PER_CLASS
        * labels.num_classes,
    }
    reason, steps = max(lengths.items(), key=lambda pair: pair[1])
    if steps > MOST_STEPS:
        return Choice("solver.iterations", MOST_STEPS, f"the limit; {reason} would be {steps}")
    return Choice("solver.iterations", steps, reason)


def _warmup(steps: int | None) -> Choice:
    """Choose the warm-up. With steps None, --minutes finds their number later, and the solver shortens it."""
    if steps is None:
        reason = "or a tenth of the steps that --minutes allows, if that is less"
        return Choice("solver.warmup", MOST_WARMUP, reason)
    reason = f"a tenth of the steps, {MOST_WARMUP} at most"
    return Choice("solver.warmup", min(MOST_WARMUP, steps // 10), reason)


def _given_steps(at: Situation, known: Mapping[str, Any], batch: int) -> int:
    """Give the number of steps that the flags or the choices lead to."""
    if known.get("solver.iterations") is not None:
        return int(known["solver.iterations"])
    epochs = float(known["solver.epochs"])
    return max(1, round(epochs * at.labels.num_images / batch))
