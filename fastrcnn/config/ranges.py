"""The values that are allowed in each field of a config, written as its type: `momentum: BelowOne = 0.9`.

`check_fields` refuses every other value, nan and infinity among them, in one line that names the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

ENDLESS = 1e30
"""A limit of this size or more is not shown. Such a limit only excludes infinity and overflows."""


@dataclass(frozen=True, slots=True)
class Range:
    """The finite numbers between two limits."""

    low: float
    high: float = math.inf
    above: bool = False
    """The range excludes its lower limit."""
    below: bool = False
    """The range excludes its upper limit."""

    def __contains__(self, value: float) -> bool:
        high_enough = self.low < value if self.above else self.low <= value
        low_enough = value < self.high if self.below else value <= self.high
        return high_enough and low_enough and abs(value) < math.inf  # nan fails each comparison

    def __str__(self) -> str:
        if self.high >= ENDLESS:
            return f"{'above' if self.above else 'of at least'} {self.low:g}"
        if self.above:
            return f"above {self.low:g}, {'below' if self.below else 'up to'} {_digits(self.high)}"
        return f"from {self.low:g} to {'below ' if self.below else ''}{_digits(self.high)}"


def _digits(limit: float) -> str:
    """Write a limit: an integer with all its digits, another number in a short form."""
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


MAX_COUNT = 2**31 - 1
"""The largest count: what a C integer holds."""
Count = Annotated[int, Range(1, MAX_COUNT)]
CountOrZero = Annotated[int, Range(0, MAX_COUNT)]
Width = Annotated[int, Range(1, 65_536)]
"""Units of a fully connected layer, or images of a step."""
PoolSize = Annotated[int, Range(1, 64)]
RoIs = Annotated[int, Range(1, 1_000_000)]
Pixels = Annotated[int, Range(1, 100_000)]
"""A side of an image in the model."""
TileSide = Annotated[int, Range(32, 100_000)]
TileOverlap = Annotated[float, Range(0, 0.8)]
"""With a larger one, an image would have more than 25 times its area in tiles."""
Rate = Annotated[float, Range(0, 1000, above=True)]
Epochs = Annotated[float, Range(0, 1_000_000, above=True)]
Seed = Annotated[int, Range(-(2**64), 2**64)]
Positive = Annotated[float, Range(0, ENDLESS, above=True)]
NotNegative = Annotated[float, Range(0, ENDLESS)]
Length = Annotated[float, Range(0, 1e6, above=True, below=True)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
BelowOne = Annotated[float, Range(0, 1, below=True)]
Margin = Annotated[float, Range(-1e30, 1e30)]
"""A score that need not be a probability: the margin of an SVM."""
Finite = Annotated[float, Range(-1e30, 1e30)]


class FieldError(ValueError):
    """Fields of a config have values that are not allowed.

    Args:
        values: the values, by name of the field.
        expected: the rest of "expected ...".
    """

    def __init__(self, values: Mapping[str, object], expected: str) -> None:
        super().__init__(dict(values), expected)  # unchanged arguments, so that the error pickles

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.args[0])

    @property
    def expected(self) -> str:
        return str(self.args[1])

    def __str__(self) -> str:
        values = ", ".join(f"{name}={repr(value)[:80]}" for name, value in self.args[0].items())
        return f"{values}: expected {self.expected}"


def check_fields(config: Any, prefix: str = "") -> None:
    """Compare every field of a config with its type and range.

    Args:
        config: a dataclass.
        prefix: what an error writes before the field's name.

    Raises:
        FieldError: a value is not allowed. It names the first such field.

    Example:
        SolverConfig(momentum=7) raises "momentum=7: expected a number from 0 to below 1".
    """
    kind: type = type(config)
    for name, hint in field_types(kind).items():
        value = getattr(config, name)
        if not _fits(value, hint):
            raise FieldError({prefix + name: value}, describe(hint))


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Give the type of each field, with its range."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        if isinstance(value, bool):  # Python counts it among the integers
            return False
        number, limits = parts
        return isinstance(value, Integral if number is int else Real) and value in limits
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return isinstance(value, str) and value in parts
    if kind is tuple:
        if not isinstance(value, tuple | list):
            return False
        hints = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(hints) == len(value) and all(map(_fits, value, hints))
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """Say in words which values a type allows: "a number above 0"."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        number, limits = parts
        return f"{'an integer' if number is int else 'a number'} {limits}"
    if kind in (Union, UnionType):
        return " or ".join(map(describe, sorted(parts, key=lambda part: part is not NoneType)))
    if kind is Literal:
        return " or ".join(parts)
    if kind is tuple:
        if get_origin(parts[0]) is tuple:
            return f"lists of {describe(parts[0])}"
        count = "values" if parts[-1] is ... else f"{len(parts)} values"
        return f"{count}, each {describe(parts[0])}"
    words = {NoneType: "null", bool: "true or false", str: "text"}
    return words.get(hint) or f"a {getattr(hint, '__name__', hint)}"
