"""A flag for each number of model, RPN and solver: `--model.test-scales 400 560 --solver.momentum 0.8`.

Names, types and help are those of the configs, read from them: nothing is written twice.
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

Made = TypeVar("Made", bound="type[Overrides]")

PARTS: Mapping[str, type] = {"model": FastRCNNConfig, "solver": SolverConfig, "rpn": RPNConfig}
GIVEN = ("num_classes", "rpn")
"""Fields that the data decides, or another flag."""
NULL = "null"
"""What a flag says where the config takes None: a flag's None means that it is not given."""


class Overrides:
    """Numbers that flags give. None: the number is chosen, or the preset's."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **numbers: Any) -> None: ...

    def given(self) -> dict[str, Any]:
        """The numbers that are given, as their config takes them. Raises UserError."""
        return {name: self._read(name, value) for name, value in self._written().items()}

    def _written(self) -> dict[str, Any]:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def _read(self, name: str, value: Any) -> Any:
        if value == NULL:
            return None
        if isinstance(value, tuple) and any(isinstance(part, str) for part in value):
            return tuple(_numbers(name, part) for part in value)
        return value

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._written().items())
        return f"{type(self).__name__}({given})"


def _overriding(config: type) -> Callable[[Made], Made]:
    """A class decorator: the fields of `config` with a flag each, all None where not given."""

    def decorate(cls: Made) -> Made:
        hints, docs = get_type_hints(config), docstrings(config)
        names = [field.name for field in fields(config) if field.name not in GIVEN]
        cls.__annotations__ = {name: _flag_type(hints[name]) for name in names}
        for name in names:
            setattr(cls, name, None)
            if _is_nested(hints[name]):
                docs[name] = f"{docs.get(name, '')} Each value is a list with commas: 16,32 64,128."
        # Where tyro finds the help of a flag whose class has no source of its fields.
        help_lines = "\n".join(f"    {name}: {docs[name]}" for name in names if name in docs)
        cls.__doc__ = f"{cls.__doc__}\n\nAttributes:\n{help_lines}"
        made: Any = dataclass(frozen=True, kw_only=True, slots=True, repr=False)(cls)
        return cast(Made, made)

    return decorate


def _flag_type(hint: Any) -> Any:
    parts = get_args(hint) if get_origin(hint) is Union or NoneType in get_args(hint) else (hint,)
    kinds = [tuple[str, ...] if _is_nested(part) else part for part in parts]
    if NoneType in parts:
        kinds.append(Literal["null"])
    return Union[(*kinds, None)]  # noqa: UP007  # of types that are known at run time


def _is_nested(hint: Any) -> bool:
    """Whether a type is a tuple of tuples of any length, which no flag can write with spaces alone."""
    inner = get_args(hint)[0] if get_origin(hint) is tuple else None
    return get_origin(inner) is tuple and get_args(inner)[-1] is ...


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UserError(
            f"--rpn.{name} {text}", "does not fit", "Expected numbers with commas between."
        ) from error


@_overriding(FastRCNNConfig)
class ModelOverrides(Overrides):
    """Numbers of the model, instead of the preset's. `null` turns off what may be off."""


@_overriding(SolverConfig)
class SolverOverrides(Overrides):
    """Numbers of the training, instead of the preset's. `null` turns off what may be off."""


@_overriding(RPNConfig)
class RPNOverrides(Overrides):
    """Numbers of the model's RPN, with --proposals rpn."""
