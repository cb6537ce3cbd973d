"""Renders --help and --help-all: the flags of a job in groups, wrapped to the width of the terminal.

The help of tyro is not used, because it keeps the line ends of docstrings in the middle of sentences.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.runtime.flags import Flag, Group, read_flags

WIDEST = 100
"""The largest number of columns, because longer lines are hard to read."""
_INDENT = 26
"""The column where the text of a flag begins."""
EXIT_CODES = (
    "Exit codes: 0, the job is done. 1, the job failed; the same command continues it. 2, the command, or"
    " something that it names, must be changed; one line says what and how."
)

SOURCES = "Sources: F is rbgirshick/fast-rcnn, C is its Caffe, TV is torchvision, D2 is detectron2."


def render(config_type: type, command: str, description: str, *, everything: bool) -> str:
    """Return the text of --help or --help-all.

    Args:
        config_type: the config of the job; its fields are the flags.
        command: the command that runs the job, e.g. ``python jobs/train.py``.
        description: paragraphs, separated by empty lines. Indented paragraphs are commands.
        everything: render --help-all.
    """
    columns = min(shutil.get_terminal_size().columns, WIDEST)
    flags, nested = read_flags(config_type)
    required = [flag for flag in flags if flag.required]
    usage = " ".join(
        [f"usage: {command}", *(f"{f.name} {f.placeholder}" for f in required), "[flags]"]
    )
    lines = [*_wrapped(usage, columns, "    "), ""]
    for paragraph in description.strip().split("\n\n"):
        wrapped = _wrapped_command if paragraph.startswith("  ") else _wrapped
        lines += [*wrapped(paragraph, columns), ""]
    lines += _section("Required", required, columns)
    groups: Sequence[Group] = getattr(config_type, "GROUPS", ())
    for group in groups:
        shown = (*group.common, *group.more) if everything else group.common
        by_name = {flag.field: flag for flag in flags}
        lines += _section(group.title, [by_name[name] for name in shown], columns)
    for part in nested if everything else ():
        lines += _section(part.title, part.flags, columns)
    if everything and any("D2" in flag.help_text for part in nested for flag in part.flags):
        lines += [*_wrapped(SOURCES, columns), ""]
    if not everything:
        hidden = sum(len(group.more) for group in groups) + sum(len(n.flags) for n in nested)
        if hidden:
            lines += [f"--help-all shows {hidden} more flags.", ""]
    lines += _wrapped(EXIT_CODES, columns)
    return "".join(f"{line}\n" for line in lines)


def _section(title: str, flags: Collection[Flag], columns: int) -> Iterator[str]:
    if not flags:
        return
    yield f"{title}:"
    for flag in flags:
        head = f"  {flag.name} {flag.placeholder}".rstrip()
        text = flag.help_text + _default(flag.default)
        indent = " " * _INDENT
        if len(head) > _INDENT - 2:
            yield from _wrapped(head, columns, "      ")
            yield from _wrapped(indent + text, columns, indent)
        else:
            yield from _wrapped(head.ljust(_INDENT) + text, columns, indent)
    yield ""


def _default(value: Any) -> str:
    """Format a default. None, false and empty values are not shown: the help text says what they mean."""
    if isinstance(value, tuple) and value:
        shown = " ".join(map(_format_value, value))
    elif (
        isinstance(value, str | int | float | Path) and not isinstance(value, bool) and value != ""
    ):
        shown = _format_value(value)
    else:
        return ""
    return f" (default: {shown})"


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:_}" if isinstance(value, int) and value >= 10_000 else str(value)


def _wrapped(text: str, columns: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _wrapped_command(command: str, columns: int) -> list[str]:
    """Wrap a shell command so that it can still be copied: each line but the last ends in a backslash."""
    lines = [command] if len(command) <= columns else _wrapped(command, columns - 2, "      ")
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]
