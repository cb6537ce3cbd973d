"""Checks of flags that several configs share. Each raises UserError with a message of one line."""

from __future__ import annotations

from pipeline.errors import UserError
from pipeline.runtime.flags import names_a_place


def require(condition: bool, what: str, why: str, advice: str) -> None:
    """Raise UserError unless the condition is true.

    Args:
        what: the flag and its value.
        why: what is wrong with it, or what was expected.
        advice: what to do.
    """
    if not condition:
        raise UserError(what, why, advice)


MOST = 2**31 - 1
"""The largest count that a flag takes."""
MOST_BYTES = 2**63 - 1
MOST_GIB = 1_000_000
LEAST_GIB = 0.001
"""The least memory for DuckDB: about one MiB."""


def check_above_zero(config: object, *names: str, most: float = MOST) -> None:
    """Raise UserError for the first of these fields that is not above 0 and at most `most`. None is
    allowed."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        within = value is None or 0 < value <= most
        require(within, flag, f"must be above 0 and at most {most}", "Give another number.")


def check_memory(config: object) -> None:
    """Raise UserError if --memory-gib is too little or too much for DuckDB."""
    value = getattr(config, "memory_gib")  # noqa: B009  # several configs have this field
    require(
        LEAST_GIB <= value <= MOST_GIB,
        f"--memory-gib {value}",
        f"must be above 0: from {LEAST_GIB} to {MOST_GIB}",
        "Give another number.",
    )


def check_seeds(name: str, *seeds: int, least: int = 0) -> None:
    """Raise UserError for the first seed that the random number generators do not take.

    Args:
        name: the flag, e.g. --seed.
        least: the smallest seed.
    """
    for seed in seeds:
        require(
            least <= seed < 2**63,
            f"{name} {seed}",
            f"expected an integer from {'-2**63' if least else 0} to 2**63 - 1",
            "Give another seed.",
        )


def check_uris(config: object, *names: str) -> None:
    """Raise UserError for the first of these fields that is empty or a scheme only.

    `s3://` without a bucket would be used as a local folder.
    """
    for name in names:
        value = getattr(config, name)
        require(
            names_a_place(value),
            f"--{name.replace('_', '-')} {value!r}",
            "expected a path or a URI",
            "Give a local path, or a URI such as s3://bucket/prefix.",
        )


def check_not_negative(config: object, *names: str, most: float = MOST) -> None:
    """Raise UserError for the first of these fields that is not from 0 to `most`. None is allowed."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        within = value is None or 0 <= value <= most
        expected = f"expected 0 or more, and at most {most}"
        require(within, flag, expected, "Give another number.")


def check_share(value: float) -> None:
    """Raise UserError if the value of --max-failures is not a share."""
    require(
        0 <= value <= 1,
        f"--max-failures {value}",
        "expected a share of the images, from 0 to 1",
        "Give another number.",
    )
