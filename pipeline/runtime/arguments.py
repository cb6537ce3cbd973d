"""Command-line words -> a config. Every mistake is one line, found before tyro parses.

tyro prints boxes of several lines, does not mention a wrong flag where a required one is missing, and has no
public hook for its errors. So the words are checked here against the fields of the config; tyro turns what
passes into the config.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.errors import UserError
from pipeline.runtime.flags import Flag, Value, all_flags

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class Given:
    """A flag as it was given."""

    name: str
    """With hyphens: --batch_size is --batch-size."""
    values: tuple[str, ...]
    attached: bool
    """Whether the first value came after `=`."""


def parse_arguments(config_type: type[Config], words: Sequence[str], command: str) -> Config:
    """Make the config.

    Args:
        words: what follows the command.
        command: what runs the job, for messages.

    Raises:
        UserError: an unknown flag, a missing one, or a value that does not fit.
    """
    flags = all_flags(config_type)
    given = split(words)
    _check_names(flags, given, command)
    spelled = [word for one in given for word in _spelled(flags[one.name], one, command)]
    return _by_tyro(config_type, spelled, command)


def split(words: Sequence[str]) -> list[Given]:
    """Flags, each with the words up to the next one. Words before the first flag have the name ``""``."""
    given: list[Given] = []
    for word in words:
        if not _is_flag(word):
            last = given.pop() if given else Given("", (), False)
            given.append(Given(last.name, (*last.values, word), last.attached))
            continue
        name, equals, value = word.partition("=")
        given.append(Given(name.replace("_", "-"), (value,) if equals else (), bool(equals)))
    return given


def _is_flag(word: str) -> bool:
    """As tyro has it: -1, -.5 and -inf are numbers."""
    return re.match(r"--?[A-Za-z]|--$", word) is not None and not re.fullmatch(
        r"-(inf|infinity|nan)", word, re.IGNORECASE
    )


def _check_names(flags: dict[str, Flag], given: Sequence[Given], command: str) -> None:
    stray = [one.values[0] for one in given if not one.name]
    wrong = [one.name for one in given if one.name and one.name not in flags]
    near = list(dict.fromkeys(filter(None, (nearest(name, flags) for name in wrong))))
    names = {one.name for one in given} | set(near)
    missing = [flag.name for flag in flags.values() if flag.required and flag.name not in names]
    hints = [f"Did you mean {', '.join(near)}?"] if near else []
    if missing and (stray or wrong):
        hints.append(f"Also missing: {', '.join(missing)}.")
    hints.append(f"({command} --help-all lists all)")
    if wrong:
        why = "no such flags" if len(wrong) > 1 else "no such flag"
        raise UserError(", ".join(wrong), why, " ".join(hints))
    if stray:
        raise UserError(repr(stray[0]), "stands after no flag", " ".join(hints))
    if missing:
        why = "are required and missing" if len(missing) > 1 else "is required and missing"
        raise UserError(", ".join(missing), why, f"({command} --help describes them)")


def nearest(name: str, flags: Iterable[str]) -> str | None:
    """The flag that was meant, probably: a nested one by its last part too, a long one by how it begins."""
    names, meant = list(flags), name.lstrip("-")
    for known in names:
        if known.rpartition(".")[2] == meant:
            return known

    def likeness(known: str) -> float:
        bare = known.lstrip("-")
        return max(
            difflib.SequenceMatcher(None, meant, part).ratio()
            for part in (bare, bare[: len(meant) + 1])
        )

    best = max(names, key=likeness, default=None)
    return best if best is not None and likeness(best) > 0.65 else None


def _spelled(flag: Flag, given: Given, command: str) -> list[str]:
    """The words that tyro gets; raises UserError where the values do not fit the flag."""
    values = given.values
    fits = len(values) == len(flag.values) or flag.repeated
    if len(values) == 1 and values[0] in (*flag.instead, *(["None"] if flag.optional else [])):
        return [flag.name, *values]
    if not fits:
        raise UserError(flag.name, _miscounted(flag, values), _advice(flag, values, command))
    kinds = flag.values * len(values) if flag.repeated else flag.values
    for value, kind in zip(values, kinds, strict=True):
        if not kind.accepts(value):
            raise UserError(
                flag.name,
                f"{value!r} was given, expected {' or '.join([kind.expected, *flag.instead])}",
                f"({command} --help-all describes it)",
            )
    words = [_as_tyro_reads(value, kind) for value, kind in zip(values, kinds, strict=True)]
    if given.attached:
        return [f"{flag.name}={words[0]}", *words[1:]]
    return [flag.name, *words]


def _as_tyro_reads(value: str, kind: Value) -> str:
    if kind.kind is bool:
        return value.capitalize()  # tyro knows True and False alone
    # The shell leaves `--output=~/x` as it is. Paths that are no `Path` are expanded by `storage`.
    return os.path.expanduser(value) if kind.kind is Path else value


def _miscounted(flag: Flag, values: Sequence[str]) -> str:
    if not flag.values:
        return f"{values[0]!r} was given, expected no value"
    if not values:
        return f"no value was given, expected {flag.expected}"
    shown = f"{values[0]!r} was" if len(values) == 1 else f"{len(values)} values were"
    return f"{shown} given, expected {'one, ' * (len(flag.values) == 1)}{flag.expected}"


def _advice(flag: Flag, values: Sequence[str], command: str) -> str:
    if len(flag.values) == 1 and len(values) > 1 and all(map(os.path.exists, values)):
        folder, suffix = os.path.dirname(values[0]), os.path.splitext(values[0])[1]
        pattern = os.path.join(folder, f"*{suffix}")
        return (
            "The shell has expanded a pattern, it seems: put it in quotes,"
            f" as in {flag.name} '{pattern}'"
        )
    return f"({command} --help-all describes it)"


def _by_tyro(config_type: type[Config], words: Sequence[str], command: str) -> Config:
    import tyro  # a tenth of a second that --help need not wait

    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                config_type, prog=command, args=words, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as error:
        # What was not foreseen above, e.g. a ValueError of a nested class.
        text = " ".join(re.sub(r"[─-╿]", " ", printed.getvalue()).split())
        raise UserError(" ".join(words), text, f"({command} --help-all)") from error
