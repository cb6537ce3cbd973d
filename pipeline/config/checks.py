"""Checks of flags that several configs share. Each raises UserError with a message of one line."""

from __future__ import annotations

import math
import re

from pipeline.errors import UserError


def require(condition: bool, what: str, why: str, advice: str) -> None:
    """Raise UserError unless the condition is true.

    Args:
        what: the flag and its value.
        why: what is wrong with it, or what was expected.
        advice: what to do.
    """
    if not condition:
        raise UserError(what, why, advice)


def check_above_zero(config: object, *names: str) -> None:
    """Raise UserError for the first of these fields that is not a finite number above 0. None is allowed."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        above = value is None or 0 < value < math.inf
        require(above, flag, "must be above 0 and finite", "Give another number.")


def check_uris(config: object, *names: str) -> None:
    """Raise UserError for the first of these fields that is empty or a scheme only.

    `s3://` without a bucket would be used as a local folder.
    """
    for name in names:
        value = getattr(config, name)
        require(
            bool(value.strip()) and not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:(/*$|/[^/])", value),
            f"--{name.replace('_', '-')} {value!r}",
            "expected a path or a URI",
            "Give a local path, or a URI such as s3://bucket/prefix.",
        )


def check_not_negative(config: object, *names: str) -> None:
    """Raise UserError for the first of these fields that is below 0. None is allowed."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        require(value is None or value >= 0, flag, "expected 0 or more", "Give another number.")


def check_share(value: float) -> None:
    """Raise UserError if the value of --max-failures is not a share."""
    require(
        0 <= value <= 1,
        f"--max-failures {value}",
        "expected a share of the images, from 0 to 1",
        "Give another number.",
    )
