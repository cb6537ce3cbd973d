"""Make a flag for each number of model, solver and RPN: `--model.test-scales 400 560 --solver.momentum 0.8`.

Names, types and help texts are read from the configs in `fastrcnn.config`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from fastrcnn.config import FastRCNNConfig, RPNConfig, SolverConfig
from pipeline.errors import UserError
from pipeline.runtime.flags import docstrings

OverridesType = TypeVar("OverridesType", bound="type[Overrides]")

PARTS: Mapping[str, type] = {"model": FastRCNNConfig, "solver": SolverConfig, "rpn": RPNConfig}
WITHOUT_FLAG = ("num_classes", "rpn", "calibration")
"""Fields without a flag: the data gives the number of classes, --proposals decides on the RPN, and the
calibration is fitted."""
NULL = "null"
"""Value of a flag that sets None in the config. A field that is None here was not given."""


class Overrides:
    """Numbers given by flags. None: not given, so the preset or the data decides."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **numbers: Any) -> None: ...

    def given(self) -> dict[str, Any]:
        """Give the numbers that are given, with the types of their config. Raise UserError for a wrong
        value."""
        return {name: self._convert(name, value) for name, value in self._fields_set().items()}

    def _fields_set(self) -> dict[str, Any]:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def _convert(self, name: str, value: Any) -> Any:
        if value == NULL:
            return None
        if isinstance(value, tuple) and any(isinstance(part, str) for part in value):
            return tuple(_numbers(name, part) for part in value)
        return value

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._fields_set().items())
        return f"{type(self).__name__}({given})"


def _overriding(config: type) -> Callable[[OverridesType], OverridesType]:
    """Decorate a class: add each field of `config` as a flag with default None."""

    def decorate(cls: OverridesType) -> OverridesType:
        hints, docs = get_type_hints(config), docstrings(config)
        names = [field.name for field in fields(config) if field.name not in WITHOUT_FLAG]
        cls.__annotations__ = {name: _flag_type(hints[name]) for name in names}
        for name in names:
            setattr(cls, name, None)
            if _is_nested(hints[name]):
                docs[name] = (
                    f"{docs.get(name, '')} Each value is a list of numbers with commas: 16,32 64,128."
                )
        # The class has no source code for its fields, so tyro reads their help from this docstring.
        help_lines = "\n".join(f"    {name}: {docs[name]}" for name in names if name in docs)
        cls.__doc__ = f"{cls.__doc__}\n\nAttributes:\n{help_lines}"
        made: Any = dataclass(frozen=True, kw_only=True, slots=True, repr=False)(cls)
        return cast(OverridesType, made)

    return decorate


def _flag_type(hint: Any) -> Any:
    """Give the type of a flag for a field of this type: also `null` if the field may be None."""
    parts = get_args(hint) if get_origin(hint) is Union or NoneType in get_args(hint) else (hint,)
    kinds = [tuple[str, ...] if _is_nested(part) else part for part in parts]
    if NoneType in parts:
        kinds.append(Literal["null"])
    return Union[(*kinds, None)]  # noqa: UP007  # types known at run time only


def _is_nested(hint: Any) -> bool:
    """Return True for a tuple of tuples of any length. A flag cannot write it with spaces only."""
    inner = get_args(hint)[0] if get_origin(hint) is tuple else None
    return get_origin(inner) is tuple and get_args(inner)[-1] is ...


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Read numbers with commas between."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UserError(
            f"--rpn.{name} {text}",
            "expected numbers with commas between",
            "Give for example 16,32 64,128.",
        ) from error


@_overriding(FastRCNNConfig)
class ModelOverrides(Overrides):
    """Numbers of the model that replace the chosen ones or the preset's. `null` turns off a number
    that may be off."""


@_overriding(SolverConfig)
class SolverOverrides(Overrides):
    """Numbers of the training that replace the chosen ones or the preset's. `null` turns off a number
    that may be off."""


@_overriding(RPNConfig)
class RPNOverrides(Overrides):
    """Numbers of the RPN, used with --proposals rpn."""
