"""Checks of flags that several configs share. Each raises UserError, in one line."""

from __future__ import annotations

import math
import re

from pipeline.errors import UserError


def require(condition: bool, what: str, why: str, advice: str) -> None:
    """Raise UserError unless the condition holds."""
    if not condition:
        raise UserError(what, why, advice)


def check_above_zero(config: object, *names: str) -> None:
    """Raises UserError for the first of these fields that is neither None nor above 0."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        above = value is None or 0 < value < math.inf
        require(above, flag, "must be above 0, and finite", "Give another number.")


def check_uris(config: object, *names: str) -> None:
    """Raises UserError for the first of these fields that names no place: `s3://` would be a local folder."""
    for name in names:
        value = getattr(config, name)
        require(
            bool(value.strip()) and not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:(/*$|/[^/])", value),
            f"--{name.replace('_', '-')} {value!r}",
            "names no place",
            "Give a path, or a URI such as s3://bucket/prefix.",
        )


def check_not_negative(config: object, *names: str) -> None:
    """Raises UserError for the first of these fields that is below 0."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        require(value is None or value >= 0, flag, "is negative", "Give 0 or more.")


def check_share(value: float) -> None:
    require(
        0 <= value <= 1,
        f"--max-failures {value}",
        "is a share of the images",
        "Give a number from 0 to 1.",
    )
