"""``--set NAME=VALUE``: any number of the model or the solver, without a flag of its own for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fastrcnn.config import FastRCNNConfig, RPNConfig, SolverConfig
from pipeline.errors import UserError

GIVEN = ("num_classes", "rpn")
"""Fields that the data decides, or another flag."""
RPN_PREFIX = "rpn_"
"""Before the name of a number of `RPNConfig`."""


def parse_settings(settings: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``NAME=VALUE`` texts as changes of (FastRCNNConfig, SolverConfig); of RPNConfig: the former's `rpn`.

    Values are written as in JSON; a tuple also as ``480,576,688``; text needs no quotes.

    Raises:
        UserError: no such name, one name twice, or a value of another type.

    Example:
        ["pyramid=480,576", "class_agnostic=true", "momentum=0.8"] gives
        ({"pyramid": (480, 576), "class_agnostic": True}, {"momentum": 0.8}).
    """
    changes: dict[type, dict[str, Any]] = {FastRCNNConfig: {}, SolverConfig: {}, RPNConfig: {}}
    owners = {
        RPN_PREFIX * (owner is RPNConfig) + field.name: owner
        for owner in changes
        for field in fields(owner)
        if field.name not in GIVEN
    }
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in owners:
            raise UserError(
                f"--set {setting}",
                "is no NAME=VALUE"
                if not equals
                else f"no number of model or solver is called {name}",
                f"Names are {', '.join(sorted(owners))}.",
            )
        owner = owners[name]
        if owner is RPNConfig:
            name = name.removeprefix(RPN_PREFIX)
        if name in changes[owner]:
            raise UserError(f"--set {setting}", f"{name} is set twice", "Set it once.")
        hint = get_type_hints(owner)[name]
        changes[owner][name] = _parse(text, hint, setting)
    rpn = {"rpn": changes[RPNConfig]} if changes[RPNConfig] else {}
    return changes[FastRCNNConfig] | rpn, changes[SolverConfig]


def _parse(text: str, hint: Any, setting: str) -> Any:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        try:
            return _as(text, kind)
        except (TypeError, ValueError):
            continue
    names = " or ".join(_name(kind) for kind in kinds)
    raise UserError(f"--set {setting}", f"{text!r} is not {names}", "Mend the value.")


def _as(text: str, kind: Any) -> Any:
    """Raises ValueError or TypeError where the text is no such value."""
    if get_origin(kind) is Literal:
        if text in get_args(kind):
            return text
        raise ValueError(text)
    if kind is str:
        return text
    if get_origin(kind) is tuple:
        return _tuple(text, get_args(kind))
    value = json.loads(text)
    if kind is float and type(value) in (int, float):
        return float(value)
    if type(value) is not kind:
        raise TypeError(text)
    return value


def _tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.strip("[]()").split(",") if part.strip()]
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(parts)
    return tuple(_as(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "numbers with commas between"
    return {NoneType: "null", bool: "true or false", int: "a whole number", float: "a number"}[kind]
