"""Parses the words of a command line into a config. Every mistake gives an error of one line.

tyro prints boxes of several lines, does not mention a wrong flag if a required one is missing, and has no
public hook for its errors. So this module checks the words against the fields of the config first, and tyro
makes the config from the words that pass.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from pipeline.errors import UserError
from pipeline.runtime.flags import Flag, Value, all_flags

Config = TypeVar("Config")
DASHES = ("\u2013", "\u2014")
"""The en dash and the em dash, which some editors write instead of two hyphens."""
SYNONYMS = {
    "lr": "learning-rate",
    "num-gpus": "gpus-per-worker",
    "gpus": "gpus-per-worker",
    "workers": "num-workers",
}
"""Names of other programs -> the name here."""


@dataclass(frozen=True, slots=True)
class GivenFlag:
    """A flag on the command line, with its values."""

    name: str
    """The name with hyphens: --batch_size is stored as --batch-size."""
    values: tuple[str, ...]
    attached: bool
    """Whether the first value came after `=`."""


def parse_arguments(config_type: type[Config], words: Sequence[str], command: str) -> Config:
    """Parse the words into a config.

    If the config has a method `check_given`, it is called with the fields that are given.

    Args:
        config_type: the class of the config.
        words: the words that follow the command.
        command: the command that runs the job, for messages.

    Raises:
        UserError: a flag is unknown or missing, or a value does not fit its flag.
    """
    flags = all_flags(config_type)
    given = split(words)
    _check_names(flags, given, command)
    given = _merge_repeated(flags, given)
    tyro_words = [
        word for item in given for word in _words_for_tyro(flags[item.name], item, command)
    ]
    config = _by_tyro(config_type, tyro_words, command)
    check_given = getattr(config, "check_given", None)
    if check_given is not None:
        check_given({flags[item.name].field for item in given})
    return config


def split(words: Sequence[str]) -> list[GivenFlag]:
    """Split words into flags, each with the words up to the next flag.

    Words before the first flag get the name ``""``.
    """
    given: list[GivenFlag] = []
    for word in words:
        if not _is_flag(word):
            last = given.pop() if given else GivenFlag("", (), False)
            given.append(GivenFlag(last.name, (*last.values, word), last.attached))
            continue
        name, equals, value = word.partition("=")
        given.append(GivenFlag(name.replace("_", "-"), (value,) if equals else (), bool(equals)))
    return given


def _is_flag(word: str) -> bool:
    """Return whether a word is a flag. As in tyro, -1, -.5 and -inf are numbers."""
    return re.match(r"--?[A-Za-z]|--$", word) is not None and not re.fullmatch(
        r"-(inf|infinity|nan)", word, re.IGNORECASE
    )


def _check_names(flags: dict[str, Flag], given: Sequence[GivenFlag], command: str) -> None:
    stray = [item.values[0] for item in given if not item.name]
    stray += [
        value
        for item in given
        for value in item.values
        if re.match("[\u2013\u2014]+[A-Za-z]", value)
    ]
    wrong = [item.name for item in given if item.name and item.name not in flags]
    similar = list(dict.fromkeys(filter(None, (nearest(name, flags) for name in wrong))))
    names = {item.name for item in given} | set(similar)
    missing = [flag.name for flag in flags.values() if flag.required and flag.name not in names]
    hints = [f"Did you mean {', '.join(similar)}?"] if similar else []
    if missing and (stray or wrong):
        hints.append(f"Also missing: {', '.join(missing)}.")
    hints += _hints(flags, given, wrong)
    hints.append(f"({command} --help-all lists all)")
    if wrong:
        why = "no such flags" if len(wrong) > 1 else "no such flag"
        raise UserError(", ".join(wrong), why, " ".join(hints))
    if stray and stray[0][0] in DASHES:
        plain = "--" + stray[0].lstrip("".join(DASHES) + "-")
        why = f"begins with the typographic dash {stray[0][0]}, not with a hyphen"
        raise UserError(repr(stray[0]), why, f"Write {plain}.")
    if stray:
        raise UserError(repr(stray[0]), "is a value without a flag before it", " ".join(hints))
    if missing:
        why = "are required and missing" if len(missing) > 1 else "is required and missing"
        raise UserError(", ".join(missing), why, f"({command} --help describes them)")


def _hints(flags: dict[str, Flag], given: Sequence[GivenFlag], wrong: Sequence[str]) -> list[str]:
    """Say what the user probably meant by names in `wrong`: a value, a group of flags, or a --set."""
    hints = []
    for before, item in pairwise(given):
        takes_value = before.name in flags and flags[before.name].values and not before.values
        if takes_value and item.name in wrong and not item.name.startswith("--"):
            hints.append(f"If {item.name} is a value, write {before.name}={item.name}.")
    groups = sorted({flag.partition(".")[0] for flag in flags if "." in flag} & set(wrong))
    if groups:
        verb = "begins" if len(groups) == 1 else "begin"
        hints.append(
            f"{' and '.join(groups)} {verb} the names of several flags, as in {groups[0]}.X."
        )
    if "--set" in flags and not any(map(_is_number, flags)):
        hints += [
            f"Numbers are given as --set {_setting_name(n)}=VALUE." for n in wrong if _is_number(n)
        ]
    return hints


def nearest(name: str, flags: Iterable[str]) -> str | None:
    """Return the flag that the user probably meant; None if no flag is similar.

    A nested flag can be meant by its last part, and a long flag by its beginning.
    """
    names, meant = list(flags), name.lstrip("-").lower()
    if len(meant) < 2 or any(known.startswith(f"--{meant}.") for known in names):
        return None  # one letter is a value, or a group was given without the flag in it
    meant = SYNONYMS.get(meant, meant)
    part, _, last = meant.rpartition(".")
    for known in sorted(names, key=lambda known: known.count(".")):
        if known == f"--{last}" or known.rpartition(".")[2] == last:
            return known
    if part:  # a part of the model must be named rightly, or the flag has another part
        names = [known for known in names if known.startswith(f"--{part}.")]

    def similarity(known: str) -> float:
        bare = known.lstrip("-")
        return max(
            difflib.SequenceMatcher(None, meant, part).ratio()
            for part in (bare, bare[: len(meant) + 1])
        )

    best = max(names, key=similarity, default=None)
    return best if best is not None and similarity(best) > 0.65 else None


def _merge_repeated(flags: dict[str, Flag], given: Sequence[GivenFlag]) -> list[GivenFlag]:
    """Make one of the flags that are given several times. The values of a list flag add up.

    Raises:
        UserError: a flag of one value is given twice with different values.
    """
    joined: dict[str, GivenFlag] = {}
    for item in given:
        first = joined.setdefault(item.name, item)
        if first is item or first.values == item.values:
            continue
        if not flags[item.name].repeated:
            both = " and ".join(" ".join(part.values) or "no value" for part in (first, item))
            raise UserError(item.name, f"was given twice, with {both}", "Give it once.")
        # `=` was written before the first value, so the values must stay in their order.
        joined[item.name] = replace(
            first if first.values else item, values=(*first.values, *item.values)
        )
    return list(joined.values())


def _setting_name(name: str) -> str:
    """Write the last part of a flag as --set names it: --model.test-scales -> test_scales."""
    return name.rpartition(".")[2].lstrip("-").replace("-", "_")


def _is_number(name: str) -> bool:
    return name.startswith(("--model.", "--solver.", "--rpn."))


def _words_for_tyro(flag: Flag, given: GivenFlag, command: str) -> list[str]:
    """Return the words for tyro. Raises UserError if the values do not fit the flag."""
    values = given.values
    if flag.values and flag.values[0].kind in (int, float):
        if flag.repeated or len(flag.values) > 1:  # 48,64 is the same as 48 64
            values = tuple(part for value in values for part in value.split(",") if part)
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
        return str(value.lower() in ("true", "1"))  # tyro accepts only True and False
    # The shell does not expand `--output=~/x`. `storage` expands the paths that are not a `Path`.
    return os.path.expanduser(value) if kind.kind is Path else value


def _miscounted(flag: Flag, values: Sequence[str]) -> str:
    if not flag.values:
        return f"{values[0]!r} was given, expected no value"
    if not values:
        return f"no value was given, expected {flag.expected}"
    shown = f"{values[0]!r} was" if len(values) == 1 else f"{len(values)} values were"
    return f"{shown} given, expected {_singular(flag.expected) if len(flag.values) == 1 else flag.expected}"


def _singular(expected: str) -> str:
    """Write what is expected of a single value: an integer -> one integer."""
    if expected.startswith("one of "):
        return expected
    return f"one {expected.removeprefix('an ').removeprefix('a ')}"


def _advice(flag: Flag, values: Sequence[str], command: str) -> str:
    if len(flag.values) == 1 and len(values) > 1 and all(map(os.path.exists, values)):
        folders = {os.path.dirname(value) for value in values}
        suffixes = {os.path.splitext(value)[1] for value in values}
        if len(folders) > 1 or suffixes == {""} or any(map(os.path.isdir, values)):
            return "Give one of them, or a pattern in quotes that matches all."
        pattern = os.path.join(*folders, f"*{suffixes.pop() if len(suffixes) == 1 else ''}")
        return (
            "The shell probably expanded a pattern. Put the pattern in quotes,"
            f" as in {flag.name} '{pattern}'"
        )
    return f"({command} --help-all describes it)"


def _by_tyro(config_type: type[Config], words: Sequence[str], command: str) -> Config:
    import tyro  # takes a tenth of a second, so not for --help

    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                config_type, prog=command, args=words, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as error:
        # An error that the checks above do not find, e.g. a ValueError of a nested class.
        text = " ".join(re.sub(r"[─-╿]", " ", printed.getvalue()).split())
        raise UserError(" ".join(words), text, f"({command} --help-all)") from error
