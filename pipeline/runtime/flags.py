"""Reads the flags of a job from its frozen dataclass: names, help texts, values, groups.

Imports only the standard library.

    class ScoreConfig:
        images: Uri                               -> --images URI, required
        \"\"\"Images to score.\"\"\"                    -> its text in --help
        batch_size: int = 8                       -> --batch-size N (default: 8)
        model: ModelNumbers = ModelNumbers()      -> --model.X for each field X of ModelNumbers
        GROUPS: ClassVar[Groups] = (Group("Work", common=("batch_size",)),)

A class whose fields were made by a program has no source with such strings. Its docstring then has a section
`Attributes:` with a line `name: text` for each field, indented by four blanks.
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

from pipeline.errors import UserError

Uri: TypeAlias = Annotated[str, "URI"]
"""A local path or any fsspec URL."""
Folder: TypeAlias = Annotated[str, "FOLDER"]
"""A folder on this machine."""
Range: TypeAlias = tuple[Annotated[float, "LOW"], Annotated[float, "HIGH"]]
"""The smallest and the largest of some values."""
Bands: TypeAlias = tuple[Annotated[int, "R"], Annotated[int, "G"], Annotated[int, "B"]]
"""Numbers of the bands that become red, green and blue, from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Flags that --help shows together."""

    title: str
    common: tuple[str, ...] = ()
    """Fields that --help shows."""
    more: tuple[str, ...] = ()
    """Fields that only --help-all shows."""


Groups: TypeAlias = tuple[Group, ...]
"""The class variable GROUPS of a config. Each flag with a default is in exactly one group; nested classes are
in none."""

_WORDS = {int: ("N", "an integer"), float: ("X", "a number"), bool: ("true|false", "true or false")}


@dataclass(frozen=True, slots=True)
class Value:
    """One value after a flag."""

    kind: type | tuple[str, ...]
    """Its type, or the allowed words."""
    name: str
    """Its placeholder in --help, e.g. N or paper|modern."""

    @property
    def expected(self) -> str:
        """The expected value, for error messages."""
        if isinstance(self.kind, tuple):
            return f"one of {', '.join(self.kind)}"
        return _WORDS[self.kind][1] if self.kind in _WORDS else self.name

    def accepts(self, text: str) -> bool:
        """Return whether `text` is such a value."""
        if isinstance(self.kind, tuple):
            return text in self.kind
        if self.kind is bool:
            return text.lower() in ("true", "false", "1", "0")
        try:
            self.kind(text)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One flag of a job."""

    field: str
    """The name of the dataclass field; a nested field has a dot."""
    name: str
    """E.g. --batch-size, or --model.test-scales."""
    help_text: str
    """The text in --help, as one line of any length."""
    default: Any
    """The default value; `dataclasses.MISSING` if the flag is required."""
    values: tuple[Value, ...]
    """The values that follow the flag; empty for a switch."""
    repeated: bool = False
    """Whether any number of values may follow, each like the only entry of `values`."""
    instead: tuple[str, ...] = ()
    """Words of which one may follow instead of the values."""
    optional: bool = False
    """Whether `None` may follow, which means that the flag is not given."""

    @property
    def required(self) -> bool:
        """Whether the flag has no default."""
        return self.default is dataclasses.MISSING

    @property
    def placeholder(self) -> str:
        """The placeholders of the values in --help."""
        names = " ".join(value.name for value in self.values)
        return f"{names} ..." if self.repeated else names

    @property
    def expected(self) -> str:
        """The expected values, for error messages."""
        single = len(self.values) == 1 and not self.repeated
        expected = self.values[0].expected if single else self.placeholder
        return " or ".join([expected, *self.instead])


@dataclass(frozen=True, kw_only=True, slots=True)
class Nested:
    """The flags of a nested class."""

    title: str
    """The first sentence of the field's docstring, and the prefix of its flags."""
    flags: tuple[Flag, ...]


@cache
def read_flags(config_type: type) -> tuple[tuple[Flag, ...], tuple[Nested, ...]]:
    """Read the flags of a config, in the order of its fields.

    Returns:
        The plain flags, and the flags of each nested class.

    Raises:
        TypeError: a field has a type that no flag can have.
    """
    flags, nested = [], []
    for field, hint, text in _fields(config_type):
        if dataclasses.is_dataclass(hint):
            title = f"{text.partition('.')[0] or field.name} (--{field.name}.X)"
            inner = tuple(
                _flag(f"{field.name}.{part.name}", part, part_hint, part_text)
                for part, part_hint, part_text in _fields(typing.cast(type, hint))
            )
            nested.append(Nested(title=title, flags=inner))
        else:
            flags.append(_flag(field.name, field, hint, text))
    return tuple(flags), tuple(nested)


def all_flags(config_type: type) -> dict[str, Flag]:
    """Return every flag, by its name."""
    flags, nested = read_flags(config_type)
    return {flag.name: flag for flag in (*flags, *(f for part in nested for f in part.flags))}


def _fields(config_type: type) -> list[tuple[dataclasses.Field[Any], Any, str]]:
    hints = typing.get_type_hints(config_type, include_extras=True)
    texts = docstrings(config_type)
    return [
        (field, hints[field.name], texts.get(field.name, ""))
        for field in dataclasses.fields(config_type)
    ]


def docstrings(config_type: type) -> dict[str, str]:
    """Return the text of each field as one line: the string under it, or its line under `Attributes:`.

    Fields without a text, or of a class without source, are missing.
    """
    _, section, lines = (config_type.__doc__ or "").partition("\nAttributes:\n")
    if section:
        return dict(re.findall(r"^    (\w+): (.+)$", lines, re.MULTILINE))
    texts: dict[str, str] = {}
    for part in reversed(config_type.__mro__):
        if dataclasses.is_dataclass(part):
            texts |= _strings_under_fields(part)
    return texts


def _strings_under_fields(config_type: type) -> dict[str, str]:
    try:
        source = inspect.getsource(config_type)
    except (OSError, TypeError):  # a program made the class
        return {}
    (class_def,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(class_def, ast.ClassDef)
    texts = {}
    for before, after in zip(class_def.body, class_def.body[1:], strict=False):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = " ".join(text.split())
    return texts


def _flag(path: str, field: dataclasses.Field[Any], hint: Any, help_text: str) -> Flag:
    name = path.replace("_", "-")
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    hint, instead, optional = _parts(hint)
    if hint is bool and isinstance(default, bool):
        name = f"no-{name}" if default else name
        return Flag(field=path, name=f"--{name}", help_text=help_text, default=default, values=())
    values, repeated = _values(hint)
    return Flag(
        field=path,
        name=f"--{name}",
        help_text=help_text,
        default=default,
        values=values,
        repeated=repeated,
        instead=instead,
        optional=optional,
    )


def _parts(hint: Any) -> tuple[Any, tuple[str, ...], bool]:
    """Split a type such as `int | Literal["null"] | None`.

    Returns:
        The type of the values, the words that are allowed instead of them, and whether None is allowed.
    """
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return hint, (), False
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    literals = [part for part in parts if typing.get_origin(part) is Literal]
    others = [part for part in parts if part not in literals] or [literals.pop(0)]
    if len(others) != 1:
        raise TypeError(
            f"{hint}: a flag has values of one type. Words (Literal) and None are allowed beside it"
        )
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
    raise TypeError(f"{hint}: no flag has values of this type. Use int, float, bool, str or Path")


_NO_PLACE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(/*$|/[^/])")


def names_a_place(value: str) -> bool:
    """Return whether a text can be a path or a URI: it is not blank, and not only a scheme."""
    return bool(value.strip()) and not _NO_PLACE.match(value)


def check_texts(config: Any) -> None:
    """Refuse flags that are empty, and URIs that name no place: `s3://` would be a local folder.

    Args:
        config: a job's config; a flag that is None is not given.

    Raises:
        UserError: the first such flag.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not isinstance(value, str):
            continue
        is_place = any(
            kind in (Uri, Folder)
            for kind in (hints[field.name], *typing.get_args(hints[field.name]))
        )
        if not (names_a_place(value) if is_place else value.strip()):
            expected = "a path or a URI such as s3://bucket/prefix" if is_place else "a text"
            flag = f"--{field.name.replace('_', '-')} {value!r}"
            raise UserError(flag, f"expected {expected}", "Give one, or leave the flag out.")
