"""Write and compare run.json: the flags of the run that an output belongs to.

    {"data": "s3://...", ..., "set": ["momentum=0.8"], "numbers": "one door"}

A command may resume an output only with the same flags. Flags are added over time: the flags of 2026-11-29
are always written, later ones only if their value does not mean "as before". A missing flag means "as
before". Numbers of model, solver and RPN are compared by value: it does not matter which flag gave them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from typing import Any, cast

from fastrcnn.config import RPNConfig
from fastrcnn.config.growth import as_tuples, kept
from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config.numbers import (
    DOORS,
    SHORT,
    as_flags,
    by_old_rule,
    configs,
    numbers_of,
    read_numbers,
    rpn_config,
    short_defaults,
)
from pipeline.config.overrides import NULL, PARTS
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
"""The flags of 2026-11-29 in run.json, by config. Do not add to it: a new flag goes into `LATER`."""
LATER: Mapping[str, Mapping[str, Any]] = {
    "TrainConfig": {"model": {}, "solver": {}, "rpn": {}},
    "AblateConfig": {},
}
"""Later flags, by config: each with the value that means "as before"."""

RULE, ONE_DOOR = "numbers", "one door"
"""Entry of run.json since 2026-11-30: all flags for a number have the same effect. For outputs without it,
see `pipeline.config.numbers.by_old_rule`."""


def claim_output(config: Any, free: Collection[str]) -> None:
    """Write run.json into `config.output`; if it exists, check that it holds the same flags.

    Args:
        config: a job's dataclass with a field `output`.
        free: fields that may differ when a run is resumed; `output` may always differ.

    Raises:
        UserError: the output belongs to a run with other flags.
    """
    flags = kept(_flags(config, free), FIRST[type(config).__name__], _as_before(config))
    data = json.dumps(flags | {RULE: ONE_DOOR}, indent=2).encode()
    if not storage.create_bytes(storage.join(config.output, "run.json"), data):
        check_same_run(config, free)


def check_same_run(config: Any, free: Collection[str]) -> None:
    """Raise UserError if `config.output` holds a run with other flags."""
    stored = _read_run(config)
    if stored is None:
        return
    old = stored.pop(RULE, None) != ONE_DOOR
    names = {field.name for field in fields(config)}
    stored = {k: v for k, v in stored.items() if k in names or v is not None}  # null: as before
    unknown = sorted(set(stored) - names - set(free))
    if unknown:
        raise UserError(
            f"--output {config.output}",
            f"holds a run of another version, with {', '.join(unknown)} in its run.json",
            "Resume it with that version, or give another --output.",
        )
    before = {name: v for name, v in (_as_before(config) | stored).items() if name not in free}
    try:
        stored_values = _compared(before, config, old)
    except (AttributeError, TypeError, UserError) as error:
        raise UserError(
            f"--output {config.output}",
            f"holds a run.json that this version cannot read ({error})",
            "Resume it with the version that wrote it, or give another --output.",
        ) from error
    values = _compared(_flags(config, free), config, old)
    changed = sorted(
        k for k in values | stored_values if values.get(k, MISSING) != stored_values.get(k, MISSING)
    )
    if isinstance(config, TrainConfig):
        changed = _with_effect(changed, before, config, old)
    if changed:
        changes = ", ".join(
            f"{k} was {_shown(stored_values, k)}, is {_shown(values, k)}" for k in changed
        )
        raise UserError(
            f"--output {config.output}",
            f"holds a run with other flags ({changes})",
            "Give another --output, or give the same flags to resume that run.",
        )


def check_doors(config: TrainConfig) -> None:
    """Raise UserError if two flags give one number different values, unless the output is from before
    2026-11-30."""
    try:
        read_numbers(config)
    except UserError:
        if not begun_by_old_rule(config):
            raise


def settled(config: TrainConfig) -> TrainConfig:
    """Give the flags to make the plan from. An old output keeps the rule that it was started with."""
    return by_old_rule(config) if begun_by_old_rule(config) else config


def begun_by_old_rule(config: Any) -> bool:
    """Return True if `config.output` holds a run from before 2026-11-30."""
    stored = _read_run(config)
    return stored is not None and stored.get(RULE) != ONE_DOOR


def read_object(uri: str) -> dict[str, Any]:
    """Read a JSON object of an earlier run. Raise UserError if it is none."""
    with storage.driver_errors(uri):
        data = storage.read_bytes(uri)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UserError(uri, f"is not valid JSON ({error})", "Give another --output.") from error
    if not isinstance(value, dict):
        raise UserError(uri, "is not a JSON object", "Give another --output.")
    return value


def _read_run(config: Any) -> dict[str, Any] | None:
    uri = storage.join(config.output, "run.json")
    return read_object(uri) if storage.exists(uri) else None


def _flags(config: Any, free: Collection[str]) -> dict[str, Any]:
    """Give the flags to store and compare, with their values as JSON reads them back."""
    flags = {k: v for k, v in as_flags(config).items() if k not in free and k != "output"}
    return cast(dict[str, Any], json.loads(json.dumps(flags)))


def _as_before(config: Any) -> dict[str, Any]:
    """Give the value of each flag that run.json may lack: from `LATER`, else the flag's default."""
    defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    values = defaults | {**LATER[type(config).__name__]}
    return cast(dict[str, Any], json.loads(json.dumps(values)))


def _compared(flags: Mapping[str, Any], config: Any, old: bool) -> dict[str, Any]:
    """Give the values that two runs must share: flags by name, numbers by the name of the number."""
    rest = {k: v for k, v in flags.items() if k not in DOORS}
    if isinstance(rest.get("data"), list) and len(rest["data"]) == 1:
        (rest["data"],) = rest["data"]  # one --data is stored as a string
    if old:  # short flags and --set had different effects then
        shorts = {_flag(k): flags.get(k) for k in SHORT}
        later = numbers_of({k: v for k, v in flags.items() if k not in SHORT}, {}, strict=False)
        return rest | shorts | dict(later.values)
    numbers = numbers_of(flags, short_defaults(type(config)), strict=False)
    return rest | dict(numbers.values)


def _flag(short: str) -> str:
    return f"--{short.replace('_', '-')}"


def _with_effect(
    changed: Sequence[str], stored: Mapping[str, Any], config: TrainConfig, old: bool
) -> list[str]:
    """Leave out the numbers that make no difference, such as a flag that repeats what the preset chose."""
    names = {_flag(short): name for short, name in SHORT.items()}
    numbers = {k: names.get(k, k) for k in changed if k in names or "." in k}
    if not numbers:
        return list(changed)
    try:
        first, second = _chosen(_from_run(stored, config), old), _chosen(config, old)
    except (AttributeError, TypeError, UserError):  # no such run is possible, so compare the flags
        return list(changed)
    if first == second:
        return [k for k in changed if k not in numbers]
    same = {k for k, name in numbers.items() if name in first and first[name] == second[name]}
    return [k for k in changed if k not in same] or list(changed)


def _chosen(config: TrainConfig, old: bool) -> dict[str, Any]:
    """Give every number of model, solver and RPN that these flags lead to, by name."""
    settled_config = by_old_rule(config) if old else config
    numbers = read_numbers(settled_config, strict=False)
    model, solver = configs(replace(settled_config, num_workers=1, min_workers=None), numbers, 1)
    most = {
        name: min(getattr(RPNConfig(), name), config.max_proposals)
        for name in ("max_proposals_train", "max_proposals_test")
    }
    parts: dict[str, Any] = {"model": model, "solver": solver, "rpn": rpn_config(numbers, **most)}
    return {f"{p}.{k}": v for p, made in parts.items() for k, v in asdict(made).items()}


def _from_run(stored: Mapping[str, Any], config: TrainConfig) -> TrainConfig:
    """Give the flags of run.json that decide on numbers; the others are those of `config`."""
    changes = {k: stored[k] for k in (*SHORT, "preset", "weights", "max_proposals")}
    for part in PARTS:
        given = {k: NULL if v is None else as_tuples(v) for k, v in stored.get(part, {}).items()}
        changes[part] = type(getattr(config, part))(**given)
    settings = tuple(stored.get("set") or ())
    return replace(config, num_workers=1, min_workers=None, set=settings, **changes)


def _shown(flags: Mapping[str, Any], name: str) -> str:
    return repr(flags[name]) if name in flags else "not given"
