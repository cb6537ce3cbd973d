"""run.json: the flags an output was made with, so that another run is not mistaken for it.

    {"data": "s3://...", ..., "set": ["momentum=0.8"], "numbers": "one door"}

A job gains flags. Those of 2026-11-29 are always written, later ones only where they do not mean "as
before"; a missing flag means "as before". Numbers are compared by value, whatever flag gave them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any, cast

from fastrcnn.config.growth import kept
from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config.numbers import (
    DOORS,
    SHORT,
    as_flags,
    by_old_rule,
    numbers_of,
    read_numbers,
    short_defaults,
)
from pipeline.errors import UserError

FIRST: Mapping[str, frozenset[str]] = {
    "TrainConfig": frozenset(
        ("data", "split", "val_split", "classes", "preset", "backbone", "weights", "proposals")
        + ("proposal_mode", "max_proposals", "scale", "rois_per_image", "fc_dim", "set")
        + ("batch_size", "iterations", "epochs", "learning_rate", "validate_every", "seed", "limit")
    ),
    "AblateConfig": frozenset(
        ("data", "split", "test_split", "preset", "backbone", "weights", "proposals")
        + ("max_proposals", "scale", "rois_per_image", "fc_dim", "epochs", "learning_rate", "set")
        + ("limit",)
    ),
}
"""The flags of 2026-11-29 that run.json holds, by config. Add none: a new flag goes into `LATER`."""
LATER: Mapping[str, Mapping[str, Any]] = {
    "TrainConfig": {"model": {}, "solver": {}, "rpn": {}},
    "AblateConfig": {},
}
"""Each flag that came later, and the value that means "as before"."""

RULE, ONE_DOOR = "numbers", "one door"
"""Marks an output whose numbers all doors change alike (`pipeline.config.numbers.by_old_rule`)."""


def claim_output(config: Any, free: Collection[str]) -> None:
    """Write run.json under `config.output`, unless it is there.

    Args:
        config: a job's dataclass with a field `output`.
        free: fields that may differ between a run and its continuation; `output` may anyway.

    Raises:
        UserError: the output is another run's.
    """
    flags = kept(_flags(config, free), FIRST[type(config).__name__], _as_before(config))
    data = json.dumps(flags | {RULE: ONE_DOOR}, indent=2).encode()
    if not storage.create_bytes(storage.join(config.output, "run.json"), data):
        check_same_run(config, free)


def check_same_run(config: Any, free: Collection[str]) -> None:
    """Raises UserError where `config.output` holds a run with other flags."""
    stored = _read_run(config)
    if stored is None:
        return
    old = stored.pop(RULE, None) != ONE_DOOR
    names = {field.name for field in fields(config)}
    unknown = sorted(set(stored) - names - set(free))
    if unknown:
        raise UserError(
            f"--output {config.output}",
            f"holds a run of another version, with {', '.join(unknown)} in its run.json",
            "Resume it with that version, or give another --output.",
        )
    before = {name: v for name, v in (_as_before(config) | stored).items() if name not in free}
    try:
        there = _compared(before, config, old)
    except (AttributeError, TypeError, UserError) as error:
        raise UserError(
            f"--output {config.output}",
            f"holds a run.json that this version does not read ({error})",
            "Resume it with the version that wrote it, or give another --output.",
        ) from error
    here = _compared(_flags(config, free), config, old)
    changed = sorted(k for k in here | there if here.get(k, MISSING) != there.get(k, MISSING))
    if changed:
        listed = ", ".join(f"{k} was {_shown(there, k)}, is {_shown(here, k)}" for k in changed)
        raise UserError(
            f"--output {config.output}",
            f"holds another run ({listed})",
            "Give another --output, or the same flags to resume that run.",
        )


def check_doors(config: TrainConfig) -> None:
    """Raises UserError where two flags give one number different values, unless the output is an old one."""
    try:
        read_numbers(config)
    except UserError:
        if not begun_by_old_rule(config):
            raise


def settled(config: TrainConfig) -> TrainConfig:
    """The flags that the plan is made of: an output goes on by the rule that it was begun by."""
    return by_old_rule(config) if begun_by_old_rule(config) else config


def begun_by_old_rule(config: Any) -> bool:
    """Whether `config.output` holds a run from before 2026-11-30."""
    stored = _read_run(config)
    return stored is not None and stored.get(RULE) != ONE_DOOR


def read_object(uri: str) -> dict[str, Any]:
    """A JSON object of an earlier run. Raises UserError."""
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(uri, f"is not JSON ({error})", "Give another --output.") from error
    if not isinstance(value, dict):
        raise UserError(uri, "is no JSON object", "Give another --output.")
    return value


def _read_run(config: Any) -> dict[str, Any] | None:
    uri = storage.join(config.output, "run.json")
    return read_object(uri) if storage.exists(uri) else None


def _flags(config: Any, free: Collection[str]) -> dict[str, Any]:
    flags = {k: v for k, v in as_flags(config).items() if k not in free and k != "output"}
    return cast(dict[str, Any], json.loads(json.dumps(flags)))  # as it reads back


def _as_before(config: Any) -> dict[str, Any]:
    """What each flag means that run.json lacks: its registered value, else its default."""
    defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    values = defaults | {**LATER[type(config).__name__]}
    return cast(dict[str, Any], json.loads(json.dumps(values)))


def _compared(flags: Mapping[str, Any], config: Any, old: bool) -> dict[str, Any]:
    """What makes two runs the same: flags as they are, numbers by name."""
    rest = {k: v for k, v in flags.items() if k not in DOORS}
    if isinstance(rest.get("data"), list) and len(rest["data"]) == 1:
        (rest["data"],) = rest["data"]  # one --data is stored as text
    if old:  # then short flags did more than --set
        shorts = {f"--{k}": flags.get(k) for k in SHORT}
        later = numbers_of({k: v for k, v in flags.items() if k not in SHORT}, {}, strict=False)
        return rest | shorts | dict(later.values)
    numbers = numbers_of(flags, short_defaults(type(config)), strict=False)
    return rest | dict(numbers.values)


def _shown(flags: Mapping[str, Any], name: str) -> str:
    return repr(flags[name]) if name in flags else "not given"
