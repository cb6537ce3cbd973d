"""Read the numbers of model, solver and RPN from flags: `--scale 480`, `--model.scale 480`, `--set
scale=480`.

A number can be given in three ways: by a short flag, by a flag of a part, or by --set. All three have the
same effect. Every number has one name, such as `model.scale`, `solver.momentum` or `rpn.nms`, and all flags
are read into one table by name. This module does not import torch, so a wrong number is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from fastrcnn.config import FastRCNNConfig, FieldError, RPNConfig, SolverConfig
from fastrcnn.config.growth import as_tuples
from pipeline.config.overrides import PARTS, Overrides
from pipeline.config.settings import as_settings, parse_settings
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import TrainConfig

SHORT_FLAGS: Mapping[str, str] = {
    "backbone": "model.backbone",
    "scale": "model.scale",
    "tile": "model.tile",
    "tile_overlap": "model.tile_overlap",
    "whole_share": "model.whole_share",
    "rois_per_image": "model.rois_per_image",
    "fc_dim": "model.fc_dim",
    "batch_size": "solver.batch_size",
    "iterations": "solver.iterations",
    "epochs": "solver.epochs",
    "learning_rate": "solver.learning_rate",
    "patience": "solver.patience",
}
"""Short flag -> name of its number."""
AUTO = "auto"
"""Value of --tile that gives no number: it is chosen from the labels."""
LONGEST = 100_000
"""The largest `max_size` that a scale sets, in pixels."""
SHORTEST = 32
"""The smallest scale with batch norms that are trained: the last map of an image has one cell."""
LENGTHS = ("solver.iterations", "solver.epochs")
"""Two numbers that exclude each other: both say how long to train."""
NUMBER_FLAGS = (*SHORT_FLAGS, *PARTS, "set")
"""Fields of a job's config that give numbers."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers that flags give."""

    values: Mapping[str, Any]
    """Name -> value."""
    flags: Mapping[str, str]
    """Name -> text of the flag that gave it, e.g. `--set momentum=0.8`. A default has no entry."""

    def part(self, part: str) -> dict[str, Any]:
        """Give the numbers of one part (`model`, `solver` or `rpn`), by field name."""
        start = f"{part}."
        return {n.removeprefix(start): v for n, v in self.values.items() if n.startswith(start)}

    def over(self, chosen: Mapping[str, Any]) -> Numbers:
        """Add numbers that no flag gives. A number that a flag gives stays, and a length excludes others."""
        has_length = any(self.values.get(name) is not None for name in LENGTHS)
        added = {k: v for k, v in chosen.items() if not (has_length and k in LENGTHS)}
        return Numbers({**added, **self.values}, self.flags)

    def flag_error(self, part: str, error: FieldError) -> UserError:
        """Turn an error about fields of this part into one about the flags that gave them."""
        names = [name if "." in name else f"{part}.{name}" for name in error.names]
        flags = [self.flags[name] for name in names if name in self.flags]
        flags = flags or [flag for name, flag in self.flags.items() if name.startswith(part)]
        why = f"expected {error.expected}" if len(names) == 1 and flags else str(error)
        return UserError(" ".join(flags) or "--preset", why, "Give another value.")


def read_numbers(config: Any, *, strict: bool = True) -> Numbers:
    """Read the numbers that the flags of a job give, in any of the three ways.

    Args:
        config: `TrainConfig` or `AblateConfig`.
        strict: refuse two flags that give one number different values. Otherwise --set wins over a flag of a
            part, and a flag of a part over a short flag.

    Raises:
        UserError: an unknown number, a value of a wrong type, or two flags with different values.
    """
    return numbers_of(as_flags(config), short_defaults(type(config)), strict=strict)


def as_flags(config: Any) -> dict[str, Any]:
    """Give the flags by name. For `model`, `solver` and `rpn`, only the numbers that are given.

    One --data is given as text, as it was before there could be several.
    """
    flags = {f.name: getattr(config, f.name) for f in fields(config)}
    if isinstance(flags.get("data"), tuple) and len(flags["data"]) < 2:
        flags["data"] = "".join(flags["data"])
    parts = {n: v.given() for n, v in flags.items() if isinstance(v, Overrides)}
    return {k: v for k, v in flags.items() if k not in parts} | {
        k: v for k, v in parts.items() if v
    }


def short_defaults(config: type) -> dict[str, Any]:
    """Give the defaults of the short flags."""
    return {f.name: f.default for f in fields(config) if f.name in SHORT_FLAGS}


def numbers_of(
    flags: Mapping[str, Any], defaults: Mapping[str, Any], *, strict: bool = True
) -> Numbers:
    """Read numbers like `read_numbers`, from flags by name. A short flag at its default is overridden by any
    other flag."""
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for name, value, text in _iter_given(flags, defaults):
        if strict and name in values and values[name] != value:
            raise UserError(
                f"{texts[name]} {text}", f"{name} has two values", "Give only one of them."
            )
        values[name], texts[name] = value, text
    for short, name in SHORT_FLAGS.items():
        if flags.get(short) is not None and flags[short] == defaults.get(short):
            values.setdefault(name, flags[short])
    _drop_default_length(values, texts.keys())
    return Numbers(values, texts)


def _iter_given(
    flags: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[tuple[str, Any, str]]:
    """Yield (name, value, text of the flag) of each given number: short flags, flags of parts, --set."""
    for short, name in SHORT_FLAGS.items():
        value = flags.get(short)
        if value is not None and value != defaults.get(short) and value != AUTO:
            text = f"--{_kebab(short)} {_flag_text(value)}"
            yield name, None if (short, value) == ("tile", 0) else value, text
    for part in PARTS:
        for field, value in flags.get(part, {}).items():
            yield (
                f"{part}.{field}",
                as_tuples(value),
                f"--{part}.{_kebab(field)} {_flag_text(value)}",
            )
    for text, (name, value) in parse_settings(flags.get("set") or ()).items():
        yield name, value, f"--set {text}"


def _drop_default_length(values: dict[str, Any], given: KeysView[str]) -> None:
    """If only one of steps and epochs is given, drop the default of the other."""
    lengths = [name for name in LENGTHS if values.get(name) is not None]
    if len(lengths) == 2:
        for name in lengths:
            if name not in given and not given.isdisjoint(lengths):
                del values[name]


def flag_of(name: str, value: Any) -> str:
    """Write a number as the flag that gives it: model.scale as `--scale 480`, rpn.nms as `--rpn.nms 0.7`."""
    short = {number: flag for flag, number in SHORT_FLAGS.items()}.get(name, name)
    if short == "tile" and value is None:
        return "--tile 0"
    return f"--{_kebab(short)} {_flag_text(value)}"


def _kebab(name: str) -> str:
    """Write a field name as in a flag: max_size -> max-size."""
    return name.replace("_", "-")


def _flag_text(value: Any) -> str:
    """Write a value as in a flag."""
    if isinstance(value, list | tuple):
        nested = any(isinstance(part, list | tuple) for part in value)
        return " ".join(
            (_flag_text(part).replace(" ", ",") or ",") if nested else _flag_text(part)
            for part in value
        )
    return "null" if value is None else str(value)


def configs(
    config: TrainConfig, numbers: Numbers, num_classes: int
) -> tuple[FastRCNNConfig, SolverConfig]:
    """Make the configs of model and solver from preset, data and numbers.

    Unless they are given too, --scale also sets max_size to 5/3 of it, and the learning rate is scaled with
    the batch size. Without a preset, these are the modern numbers; `pipeline.training.recipe` chooses others.

    Raises:
        UserError: a number is out of range.
    """
    paper = config.preset == "paper"
    model = numbers.part("model")
    if isinstance(model.get("scale"), int):
        model.setdefault("max_size", max_size_of(model["scale"]))
    if config.weights == "none":
        # From random weights, every stage must be trained, and batch norms must measure their statistics.
        model = {"frozen_stages": 0, "frozen_norm": False} | model
    try:
        preset = FastRCNNConfig.paper if paper else FastRCNNConfig.modern
        model_config = preset(num_classes, **model)
    except FieldError as error:
        raise numbers.flag_error("model", error) from error
    _check_buildable(model_config, numbers)
    solver = _solver(SolverConfig.paper if paper else SolverConfig.modern, numbers)
    # Without preset and batch size, the recipe chooses a batch that suits the workers.
    is_known = config.preset is not None or "solver.batch_size" in numbers.values
    if is_known and solver.batch_size % config.num_workers:
        raise _batch_size_error(numbers.flags.get("solver.batch_size"), solver, config.num_workers)
    return model_config, solver


def max_size_of(scale: int) -> int:
    """Return the `max_size` that a scale sets, in pixels."""
    return min(round(scale * 5 / 3), LONGEST)


def _check_buildable(model: FastRCNNConfig, numbers: Numbers) -> None:
    """Raise UserError for numbers that a checkpoint may hold, but that no training should begin with."""
    fc7 = model.fc7_dim or model.fc_dim
    for name, width in (("fc6_rank", model.fc_dim), ("fc7_rank", min(model.fc_dim, fc7))):
        rank = getattr(model, name)
        if rank is not None and rank > width:
            error = FieldError({name: rank}, f"at most {width}, the width of the layer")
            raise numbers.flag_error("model", error)
    if not model.frozen_norm and min(model.scales) < SHORTEST:
        name = "pyramid" if model.pyramid else "scale"
        expected = f"at least {SHORTEST} pixels, so that batch norms can measure their statistics"
        raise numbers.flag_error("model", FieldError({name: min(model.scales)}, expected))


def _solver(preset: Callable[..., SolverConfig], numbers: Numbers) -> SolverConfig:
    """Make the preset's solver for the given optimizer, and change it by the given numbers."""
    changes = numbers.part("solver")
    if all(numbers.values.get(name) is not None for name in LENGTHS):
        both = " ".join(numbers.flags[name] for name in LENGTHS)
        raise UserError(both, "both say how long to train", "Give only one of them.")
    for name, other in (("iterations", "epochs"), ("epochs", "iterations")):
        if changes.get(name) is not None:
            changes.setdefault(other, None)
    try:
        base = preset(optimizer=changes.get("optimizer", "sgd"))
        solver = replace(base, **changes)
    except FieldError as error:
        raise numbers.flag_error("solver", error) from error
    if "learning_rate" in changes:
        return solver
    return replace(solver, learning_rate=base.rate_for(solver.batch_size))


def _batch_size_error(flag: str | None, solver: SolverConfig, num_workers: int) -> UserError:
    """Make the error for a batch size that the number of workers does not divide."""
    if flag is None:
        return UserError(
            f"--num-workers {num_workers}",
            f"does not divide the batch of {solver.batch_size} images, which no flag gives",
            "Give another number of workers, or a --batch-size that is a multiple of it.",
        )
    return UserError(
        f"{flag} --num-workers {num_workers}",
        "every worker needs the same number of images per step",
        "Give a batch size that is a multiple of the number of workers.",
    )


def check_numbers(config: TrainConfig) -> None:
    """Raise UserError for a number out of range.

    Flags that give one number different values are refused later, because old outputs allow them: see
    `by_old_rule`.
    """
    numbers = read_numbers(config, strict=False)
    configs(config, numbers, 1)
    rpn_config(numbers)


def rpn_config(numbers: Numbers, **defaults: Any) -> RPNConfig:
    """Make the config of the RPN from these numbers. Raise UserError for a number out of range."""
    try:
        return RPNConfig(**(defaults | numbers.part("rpn")))
    except FieldError as error:
        raise numbers.flag_error("rpn", error) from error


# --- the rule before 2026-11-30, for outputs that were started with it -----------------------------------


def by_old_rule(config: TrainConfig) -> TrainConfig:
    """Give the flags that mean today what this command meant before 2026-11-30; all numbers are in --set.

    Then, --set won over other flags and changed its number only: a scale given by --set did not change
    max_size, and a batch size did not change the learning rate.
    """
    later = numbers_of(
        {k: v for k, v in as_flags(config).items() if k not in SHORT_FLAGS}, {}
    ).values
    empty = {part: type(getattr(config, part))() for part in PARTS}
    first = replace(config, set=(), **empty)
    if "model.backbone" in later:
        first = replace(first, backbone=later["model.backbone"])
    numbers = read_numbers(first)
    model, solver = configs(first, numbers, 1)
    beside = {"model.max_size": model.max_size, "solver.learning_rate": solver.learning_rate}
    settings = as_settings(beside | dict(numbers.values) | dict(later))
    no_short: dict[str, Any] = dict.fromkeys(SHORT_FLAGS)
    return replace(first, **no_short, set=settings)
