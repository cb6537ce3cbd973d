"""What every job's `__main__` does: flags -> config -> run -> exit code.

Exit codes (design contract, section 3): 0 done; 1 the job failed, running it again continues;
2 the user can mend it, said in one line before any worker started.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import TypeVar

import tyro
from ray.exceptions import RayTaskError

from pipeline.errors import JobError, UserError
from pipeline.storage import StorageError

Config = TypeVar("Config")

_COMMAND = "python jobs/|ray job submit "
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WIDEST = 100
"""Columns of prose that are read with ease."""


def configure_logging() -> None:
    """Plain lines on stderr; for drivers here, and for workers that report progress."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for chatty in ("aiobotocore", "botocore"):  # where each client found its credentials
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main(config_type: type[Config], run: Callable[[Config], object], description: str) -> None:
    """Parse `sys.argv` into `config_type`, call `run`, and exit with the code above.

    Args:
        config_type: the job's frozen dataclass; its fields are the flags, unknown ones are refused.
        run: does the work; may raise `UserError`.
        description: the job's docstring, shown by ``--help``.
    """
    configure_logging()
    try:
        run(parse(config_type, description))
    except RayTaskError as error:
        # Also an instance of what was raised in the worker. There it was too late to be the user's mistake.
        if not isinstance(error, UserError | JobError | StorageError):
            raise
        sys.stderr.write(f"failed: {' '.join(str(error.cause).split())}\n")
        sys.exit(1)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except (
        JobError,
        StorageError,
    ) as error:  # the store or the disk would not: it may another time
        sys.stderr.write(f"failed: {error}\n")
        sys.exit(1)


def parse(config_type: type[Config], description: str) -> Config:
    """`sys.argv` as a config; ``--help`` fits the terminal.

    tyro leaves descriptions and short usages as wide as they are, and joins commands that follow each other.
    """
    description = re.sub(rf"\n(?={_COMMAND})", "\n\n", description)
    caught = io.StringIO()
    caught.isatty = sys.stdout.isatty  # type: ignore[method-assign]  # tyro colours what is shown
    try:
        with contextlib.redirect_stdout(caught):
            return tyro.cli(
                config_type, description=description, config=(tyro.conf.FlagCreatePairsOff,)
            )
    finally:
        sys.stdout.write(fitted(caught.getvalue(), shutil.get_terminal_size().columns))


def fitted(text: str, columns: int) -> str:
    """Lines outside boxes wrapped to `columns`, and to no more than are read with ease."""
    lines = []
    for line in text.splitlines():
        plain = _COLOUR.sub("", line)
        if len(plain) <= columns or plain[0] in "╭│╰":
            lines.append(line)
            continue
        indent = "    " if re.match(rf"usage|{_COMMAND}", plain) else ""
        width = min(columns, _WIDEST)
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return "".join(f"{line}\n" for line in lines)
