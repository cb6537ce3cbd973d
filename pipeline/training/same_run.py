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
from fastrcnn.config.growth import as_tuples, drop_as_before
from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config.numbers import (
    AUTO,
    NUMBER_FLAGS,
    SHORT_FLAGS,
    as_flags,
    by_old_rule,
    configs,
    numbers_of,
    read_numbers,
    rpn_config,
    short_defaults,
)
from pipeline.config.overrides import NULL, PARTS
from pipeline.config.train import with_named_preset
from pipeline.errors import UserError
from pipeline.training.stored_run import (
    BY_ROLE,
    CALIBRATION_RULE,
    CHECKED,
    FIT_RULE,
    FITTED,
    FROM_DATA,
    LABEL_RULE,
    NEWEST,
    RECIPE_FILE,
    RECIPE_RULE,
    REVISION_RULE,
    RULE,
    RULES,
    SAME_EFFECT,
    SPLIT_RULE,
    UPRIGHT,
    WEIGHTS_RULE,
    StoredRun,
    read_object,
)

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
    "TrainConfig": {
        "model": {},
        "solver": {},
        "rpn": {},
        "truncated": "warn",
        "range": None,
        "bands": None,
        "annotations": None,
        "images_at": None,
        "val_fraction": None,
        "test_fraction": None,
        "rename": (),
        "on_bad_label": "refuse",
        "minutes": None,
        "patience": None,
        "tile": None,
        "tile_overlap": None,
        "whole_share": None,
        "folds": None,
        "fold": None,
    },
    "AblateConfig": {"val_fraction": None},
}
"""Later flags, by config: each with the value that means "as before"."""


def claim_output(config: Any, free: Collection[str], *, revision: str | None = None) -> None:
    """Write run.json into `config.output`; if it exists, check that it holds the same flags.

    Args:
        config: a job's dataclass with a field `output`.
        free: fields that may differ when a run is resumed; `output` may always differ.
        revision: the revision of the weights of a backbone of timm. None: it has none.

    Raises:
        UserError: the output belongs to a run with other flags.
    """
    flags = drop_as_before(_flags(config, free), FIRST[type(config).__name__], _as_before(config))
    rules = {RULE: SAME_EFFECT, LABEL_RULE: CHECKED, WEIGHTS_RULE: NEWEST}
    if isinstance(config, TrainConfig):
        rules |= {
            SPLIT_RULE: BY_ROLE,
            FIT_RULE: UPRIGHT,
            RECIPE_RULE: FROM_DATA,
            CALIBRATION_RULE: FITTED,
        }
    if revision is not None:
        rules[REVISION_RULE] = revision
    data = json.dumps(flags | rules, indent=2).encode()
    with storage.driver_errors(config.output):
        ours = storage.create_bytes(storage.join(config.output, "run.json"), data)
    if not ours:
        begun = StoredRun.read(config)
        check_same_run(config, free, begun)
        _record_bad_label_rule(config, begun)


def check_same_run(config: Any, free: Collection[str], begun: StoredRun | None = None) -> None:
    """Raise UserError if `config.output` holds a run with other flags.

    Args:
        begun: its run.json; None reads it.
    """
    begun = StoredRun.read(config) if begun is None else begun
    if begun.content is None:
        return
    old = begun.old_numbers
    stored = {k: v for k, v in begun.content.items() if k not in RULES}
    if begun.before_recipe and isinstance(config, TrainConfig):
        config = with_named_preset(config)
    names = {field.name for field in fields(config)}
    stored = {k: v for k, v in stored.items() if k in names or v is not None}  # null: as before
    unknown = sorted(set(stored) - names - set(free))
    if unknown:
        raise UserError(
            f"--output {config.output}",
            f"holds a run of another version, with {', '.join(unknown)} in its run.json",
            "Resume it with that version, or give another --output.",
        )
    if isinstance(config, TrainConfig) and stored.get("on_bad_label", "refuse") == "refuse":
        # Nothing was skipped or cut yet, so the data are the same with any value.
        stored["on_bad_label"] = config.on_bad_label
    before = {name: v for name, v in (_as_before(config) | stored).items() if name not in free}
    try:
        stored_values = _values_to_compare(before, config, old)
    except (AttributeError, TypeError, UserError) as error:
        raise UserError(
            f"--output {config.output}",
            f"holds a run.json that this version cannot read ({error})",
            "Resume it with the version that wrote it, or give another --output.",
        ) from error
    values = _values_to_compare(_flags(config, free), config, old)
    changed = sorted(
        k for k in values | stored_values if values.get(k, MISSING) != stored_values.get(k, MISSING)
    )
    if isinstance(config, TrainConfig):
        changed = _drop_ineffective(changed, before, config, old)
    if changed:
        changes = ", ".join(
            f"{k} was {_value_text(stored_values, k)}, is {_value_text(values, k)}" for k in changed
        )
        raise UserError(
            f"--output {config.output}",
            f"holds a run with other flags ({changes})",
            "Give another --output, or give the same flags to resume that run.",
        )


def effective_flags(config: TrainConfig, begun: StoredRun | None = None) -> TrainConfig:
    """Give the flags as this version reads them: an output keeps the rules that its run began with.

    Without a preset, numbers are chosen from the data, see `pipeline.training.chosen`. A run from before that
    has a preset.

    Args:
        begun: its run.json; None reads it.

    Raises:
        UserError: two flags give one number different values, which they may in a run from before 2026-11-30.
            Or --model.calibrate is given for a run that began before trainings calibrated scores.
    """
    begun = StoredRun.read(config) if begun is None else begun
    named = config.preset is not None or begun.before_recipe
    flags = with_named_preset(config) if named else config
    if begun.old_numbers:
        flags = by_old_rule(flags)
    else:
        read_numbers(flags)
    return _uncalibrated(flags) if begun.uncalibrated else flags


def _uncalibrated(flags: TrainConfig) -> TrainConfig:
    """Add calibrate=false to the flags. Raise UserError if they ask for a calibration."""
    numbers = read_numbers(flags, strict=False)
    given = numbers.values.get("model.calibrate")
    if given:
        raise UserError(
            numbers.flags["model.calibrate"],
            "this output holds a run from before trainings calibrated scores",
            "Leave the flag out, and run jobs/calibrate.py on the finished checkpoint.",
        )
    return flags if given is not None else replace(flags, set=(*flags.set, "calibrate=false"))


def calibrates(config: TrainConfig, begun: StoredRun) -> bool:
    """Return True if this training calibrates its scores after the last step."""
    flags = effective_flags(config, begun)
    model, _ = configs(flags, read_numbers(flags, strict=False), 1)
    return model.calibrate and model.classifier == "softmax"


def _record_bad_label_rule(config: Any, begun: StoredRun) -> None:
    """Write --on-bad-label into the run.json of a run that was begun with `refuse`."""
    stored = begun.content
    if not isinstance(config, TrainConfig) or stored is None or config.on_bad_label == "refuse":
        return
    if stored.get("on_bad_label", "refuse") == "refuse":
        data = json.dumps({**stored, "on_bad_label": config.on_bad_label}, indent=2).encode()
        with storage.driver_errors(config.output):
            storage.write_bytes(storage.join(config.output, "run.json"), data)


def _flags(config: Any, free: Collection[str]) -> dict[str, Any]:
    """Give the flags to store and compare, with their values as JSON reads them back."""
    flags = {k: v for k, v in as_flags(config).items() if k not in free and k != "output"}
    return cast(dict[str, Any], json.loads(json.dumps(flags)))


def _as_before(config: Any) -> dict[str, Any]:
    """Give the value of each flag that run.json may lack: from `LATER`, else the flag's default."""
    defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    values = defaults | {**LATER[type(config).__name__]}
    return cast(dict[str, Any], json.loads(json.dumps(values)))


def _values_to_compare(flags: Mapping[str, Any], config: Any, old: bool) -> dict[str, Any]:
    """Give the values that two runs must share: flags by name, numbers by the name of the number."""
    rest = {k: v for k, v in flags.items() if k not in NUMBER_FLAGS}
    if isinstance(rest.get("data"), list) and len(rest["data"]) < 2:
        rest["data"] = "".join(rest["data"])  # one --data is stored as text
    if old:  # short flags and --set had different effects then
        shorts = {_flag(k): flags.get(k) for k in SHORT_FLAGS}
        later = numbers_of(
            {k: v for k, v in flags.items() if k not in SHORT_FLAGS}, {}, strict=False
        )
        return rest | shorts | dict(later.values)
    if flags.get("tile") == AUTO:  # no number, but another way to choose one
        rest["tile"] = AUTO
    numbers = numbers_of(flags, short_defaults(type(config)), strict=False)
    return rest | dict(numbers.values)


def _flag(short: str) -> str:
    return f"--{short.replace('_', '-')}"


def _drop_ineffective(
    changed: Sequence[str], stored: Mapping[str, Any], config: TrainConfig, old: bool
) -> list[str]:
    """Leave out the numbers that make no difference, such as a flag that repeats what the preset chose."""
    names = {_flag(short): name for short, name in SHORT_FLAGS.items()}
    numbers = {k: names.get(k, k) for k in changed if k in names or "." in k}
    if not numbers:
        return list(changed)
    try:
        first, second = _all_numbers(_stored_config(stored, config), old), _all_numbers(config, old)
    except (AttributeError, TypeError, UserError):  # no such run is possible, so compare the flags
        return list(changed)
    if first == second:
        return [k for k in changed if k not in numbers]
    same = {k for k, name in numbers.items() if name in first and first[name] == second[name]}
    return [k for k in changed if k not in same] or list(changed)


def _all_numbers(config: TrainConfig, old: bool) -> dict[str, Any]:
    """Give every number of model, solver and RPN that these flags lead to, by name."""
    config = by_old_rule(config) if old else config
    numbers = read_numbers(config, strict=False).over(_chosen(config))
    model, solver = configs(replace(config, num_workers=1, min_workers=None), numbers, 1)
    most = {
        name: min(getattr(RPNConfig(), name), config.max_proposals)
        for name in ("max_proposals_train", "max_proposals_test")
    }
    parts: dict[str, Any] = {"model": model, "solver": solver, "rpn": rpn_config(numbers, **most)}
    return {f"{p}.{k}": v for p, made in parts.items() for k, v in asdict(made).items()}


def _chosen(config: TrainConfig) -> dict[str, Any]:
    """Give the numbers in the recipe.json of this output, by name. Empty without one, and for a preset."""
    uri = storage.join(config.output, RECIPE_FILE)
    if config.preset is not None or not storage.exists(uri):
        return {}
    choices = read_object(uri).get("choices") or ()
    return {c["name"]: as_tuples(c["value"]) for c in choices if "." in c["name"]}


def _stored_config(stored: Mapping[str, Any], config: TrainConfig) -> TrainConfig:
    """Give the flags of run.json that decide on numbers; the others are those of `config`."""
    changes = {k: stored[k] for k in (*SHORT_FLAGS, "preset", "weights", "max_proposals")}
    for part in PARTS:
        given = {k: NULL if v is None else as_tuples(v) for k, v in stored.get(part, {}).items()}
        changes[part] = type(getattr(config, part))(**given)
    settings = tuple(stored.get("set") or ())
    return replace(config, num_workers=1, min_workers=None, set=settings, **changes)


def _value_text(flags: Mapping[str, Any], name: str) -> str:
    return repr(flags[name]) if name in flags else "not given"
