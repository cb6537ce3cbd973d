"""Parse ``--set NAME=VALUE``, the short form of `--model.X`, `--solver.X` and `--rpn.X`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fastrcnn.config.ranges import describe, field_types
from pipeline.config.overrides import PARTS, WITHOUT_FLAG
from pipeline.errors import UserError

RPN_PREFIX = "rpn_"
"""Prefix of the fields of `RPNConfig` in --set."""


def parse_settings(settings: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Read ``NAME=VALUE`` texts. Gives each text with the name and value of its number.

    Values are written as in JSON. A tuple may also be written as ``480,576,688``. Strings need no quotes.

    Raises:
        UserError: an unknown name, a name given twice, or a value of a wrong type.

    Example:
        ["rpn_nms=0.8", "pyramid=480,576"] gives
        {"rpn_nms=0.8": ("rpn.nms", 0.8), "pyramid=480,576": ("model.pyramid", (480, 576))}.
    """
    known = _setting_names()
    parsed: dict[str, tuple[str, Any]] = {}
    for setting in settings:
        setting_name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UserError(f"--set {setting}", "has no =", "Give NAME=VALUE.")
        if not setting_name:
            raise UserError(f"--set {setting}", "has no name before =", "Give NAME=VALUE.")
        if setting_name not in known:
            similar = difflib.get_close_matches(setting_name, known, n=3)
            raise UserError(
                f"--set {setting}",
                f"there is no number called {setting_name}",
                f"Did you mean {' or '.join(similar)}?"
                if similar
                else "--help-all lists all numbers.",
            )
        part, field = known[setting_name]
        name = f"{part}.{field}"
        if any(name == other for other, _ in parsed.values()):
            raise UserError(
                f"--set {setting}", f"{setting_name} was given two times", "Give it once."
            )
        parsed[setting] = name, _parse(text, PARTS[part], field, setting)
    return parsed


def as_settings(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Write numbers as --set takes them. `parse_settings` reads them back."""
    texts = []
    for name, value in values.items():
        part, _, field = name.partition(".")
        text = value if isinstance(value, str) else json.dumps(value)
        texts.append(f"{RPN_PREFIX * (part == 'rpn')}{field}={text}")
    return tuple(texts)


def _setting_names() -> dict[str, tuple[str, str]]:
    """Give the mapping: name in --set -> (part, field)."""
    return {
        RPN_PREFIX * (part == "rpn") + field.name: (part, field.name)
        for part, config in PARTS.items()
        for field in fields(config)
        if field.name not in WITHOUT_FLAG
    }


def _parse(text: str, config: type, field: str, setting: str) -> Any:
    """Read the value of a field. Raise UserError if it has a wrong type."""
    hint = get_type_hints(config)[field]
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        try:
            return _convert(text, kind)
        except (TypeError, ValueError):
            continue
    expected = describe(field_types(config)[field])
    raise UserError(f"--set {setting}", f"expected {expected}", "Give another value.")


def _convert(text: str, kind: Any) -> Any:
    """Read a text as a value of this type. Raise ValueError or TypeError if it is none."""
    if get_origin(kind) is Literal:
        if text in get_args(kind):
            return text
        raise ValueError(text)
    if kind is str:
        return text
    if get_origin(kind) is tuple:
        return _tuple(text, get_args(kind))
    if kind is NoneType:
        if text in ("null", "None"):
            return None
        raise ValueError(text)
    if kind is bool:
        if text.lower() in ("true", "false", "1", "0"):
            return text.lower() in ("true", "1")
        raise ValueError(text)
    if kind is int and not text.lstrip("+-").isdecimal():
        number = float(text)  # 96.0 is an integer too
        if not number.is_integer():
            raise ValueError(text)
        return int(number)
    return kind(text)


def _tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Read a tuple: a JSON list, or values with commas between."""
    if text.strip().startswith("["):
        parts = [json.dumps(part) for part in json.loads(text)]
    else:
        parts = [part.strip() for part in text.strip("()").split(",") if part.strip()]
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(parts)
    return tuple(_convert(part, kind) for part, kind in zip(parts, kinds, strict=True))
