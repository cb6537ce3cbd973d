"""A job's frozen dataclass read as flags: names, words, values, groups. Imports the standard library alone.

    class ScoreConfig:
        images: Uri                               -> --images URI, required
        \"\"\"What to score.\"\"\"                      -> its words in --help
        batch_size: int = 8                       -> --batch-size N (default: 8)
        model: ModelNumbers = ModelNumbers()      -> --model.X of each field X of ModelNumbers
        GROUPS: ClassVar[Groups] = (Group("Work", common=("batch_size",)),)

A class whose fields were made by a program has no such source: its docstring then has a section `Attributes:`
with a line `name: words` for each field, indented by four blanks.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union

Uri: TypeAlias = Annotated[str, "URI"]
"""A local path or any fsspec URL."""
Folder: TypeAlias = Annotated[str, "FOLDER"]
"""A folder of this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Flags that --help shows together."""

    title: str
    common: tuple[str, ...] = ()
    """Fields that --help shows."""
    more: tuple[str, ...] = ()
    """Fields that only --help-all shows."""


Groups: TypeAlias = tuple[Group, ...]
"""The class variable GROUPS of a config: each flag with a default in exactly one; nested classes in none."""

_WORDS = {int: ("N", "an integer"), float: ("X", "a number"), bool: ("true|false", "true or false")}


@dataclass(frozen=True, slots=True)
class Value:
    """One word after a flag."""

    kind: type | tuple[str, ...]
    """Its type, or the words to choose from."""
    name: str
    """What stands for it in --help, e.g. N or paper|modern."""

    @property
    def expected(self) -> str:
        """What an error says was expected."""
        if isinstance(self.kind, tuple):
            return f"one of {', '.join(self.kind)}"
        return _WORDS[self.kind][1] if self.kind in _WORDS else self.name

    def accepts(self, text: str) -> bool:
        """Whether `text` can be such a value."""
        if isinstance(self.kind, tuple):
            return text in self.kind
        if self.kind is bool:
            return text.lower() in ("true", "false")
        try:
            self.kind(text)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One flag of a job."""

    field: str
    """The dataclass field."""
    name: str
    """E.g. --batch-size, or --model.test-scales."""
    words: str
    """What --help says about it; one line, however long."""
    default: Any
    """`dataclasses.MISSING` where the flag is required."""
    values: tuple[Value, ...]
    """The words that follow it; empty for a switch."""
    repeated: bool = False
    """Any number of words may follow, each like the only one of `values`."""
    instead: tuple[str, ...] = ()
    """Words that may follow instead of the values, alone."""
    optional: bool = False
    """`None` may follow too: as if the flag were not given."""

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def placeholder(self) -> str:
        """What follows the flag in --help."""
        names = " ".join(value.name for value in self.values)
        return f"{names} ..." if self.repeated else names

    @property
    def expected(self) -> str:
        """What an error says should follow."""
        single = len(self.values) == 1 and not self.repeated
        expected = self.values[0].expected if single else self.placeholder
        return " or ".join([expected, *self.instead])


@dataclass(frozen=True, kw_only=True, slots=True)
class Nested:
    """The flags of a nested class."""

    title: str
    """The first sentence of the field's words, and how its flags begin."""
    flags: tuple[Flag, ...]


@cache
def read_flags(config_type: type) -> tuple[tuple[Flag, ...], tuple[Nested, ...]]:
    """The flags of a config, in order of its fields: plain ones, and those of each nested class."""
    flags, nested = [], []
    for field, hint, words in _fields(config_type):
        if dataclasses.is_dataclass(hint):
            title = f"{words.partition('.')[0] or field.name} (--{field.name}.X)"
            inner = tuple(
                _flag(f"{field.name}.{part.name}", part, part_hint, part_words)
                for part, part_hint, part_words in _fields(typing.cast(type, hint))
            )
            nested.append(Nested(title=title, flags=inner))
        else:
            flags.append(_flag(field.name, field, hint, words))
    return tuple(flags), tuple(nested)


def all_flags(config_type: type) -> dict[str, Flag]:
    """Every flag by its name."""
    flags, nested = read_flags(config_type)
    return {flag.name: flag for flag in (*flags, *(f for part in nested for f in part.flags))}


def _fields(config_type: type) -> list[tuple[dataclasses.Field[Any], Any, str]]:
    hints = typing.get_type_hints(config_type, include_extras=True)
    words = docstrings(config_type)
    return [
        (field, hints[field.name], words.get(field.name, ""))
        for field in dataclasses.fields(config_type)
    ]


def docstrings(config_type: type) -> dict[str, str]:
    """The words of each field, each as one line: the string under it, or its line under `Attributes:`.

    A field that has none, or whose class has no source, is missing.
    """
    _, section, lines = (config_type.__doc__ or "").partition("\nAttributes:\n")
    if section:
        return dict(re.findall(r"^    (\w+): (.+)$", lines, re.MULTILINE))
    words: dict[str, str] = {}
    for part in reversed(config_type.__mro__):
        if dataclasses.is_dataclass(part):
            words |= _strings_under_fields(part)
    return words


def _strings_under_fields(config_type: type) -> dict[str, str]:
    try:
        source = inspect.getsource(config_type)
    except (OSError, TypeError):  # a program made the class
        return {}
    (class_def,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(class_def, ast.ClassDef)
    words = {}
    for before, after in zip(class_def.body, class_def.body[1:], strict=False):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                words[name] = " ".join(text.split())
    return words


def _flag(path: str, field: dataclasses.Field[Any], hint: Any, words: str) -> Flag:
    name = path.replace("_", "-")
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    hint, instead, optional = _parts(hint)
    if hint is bool and isinstance(default, bool):
        name = f"no-{name}" if default else name
        return Flag(field=path, name=f"--{name}", words=words, default=default, values=())
    values, repeated = _values(hint)
    return Flag(
        field=path,
        name=f"--{name}",
        words=words,
        default=default,
        values=values,
        repeated=repeated,
        instead=instead,
        optional=optional,
    )


def _parts(hint: Any) -> tuple[Any, tuple[str, ...], bool]:
    """The type of the values, the words that may stand instead of them, and whether None may:
    `int | Literal["null"] | None`."""
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return hint, (), False
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    literals = [part for part in parts if typing.get_origin(part) is Literal]
    others = [part for part in parts if part not in literals] or [literals.pop(0)]
    if len(others) != 1:
        raise TypeError(f"{hint}: a flag has values of one type, words instead of them, and None")
    instead = tuple(word for literal in literals for word in typing.get_args(literal))
    return others[0], instead, len(parts) < len(typing.get_args(hint))


def _values(hint: Any) -> tuple[tuple[Value, ...], bool]:
    if typing.get_origin(hint) is not tuple:
        return (_value(hint),), False
    parts = typing.get_args(hint)
    if len(parts) == 2 and parts[1] is Ellipsis:
        return (_value(parts[0]),), True
    return tuple(map(_value, parts)), False


def _value(hint: Any) -> Value:
    if typing.get_origin(hint) is Annotated:
        return Value(typing.get_args(hint)[0], hint.__metadata__[0])
    if typing.get_origin(hint) is Literal:
        return Value(typing.get_args(hint), "|".join(typing.get_args(hint)))
    if hint in _WORDS:
        return Value(hint, _WORDS[hint][0])
    if hint is str or hint is Path:
        return Value(hint, "PATH" if hint is Path else "TEXT")
    raise TypeError(f"{hint}: no flag has values of this type")
