"""Runs a job as a process: flags -> config -> run -> exit code.

Exit codes (design contract, section 3): 0: the job is done. 1: the job failed; the same command continues it.
2: the user must change the command or something it names; one line says so before any worker starts.

Ray, torch and storage are imported when a job runs, because --help and flag errors do not need them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from fastrcnn import __version__
from pipeline.errors import JobError, StorageError, UserError, one_line
from pipeline.runtime import help
from pipeline.runtime.arguments import parse_arguments
from pipeline.runtime.flags import check_texts

Config = TypeVar("Config")
VERSION = f"fastrcnn-ray {__version__}\n"


def configure_logging() -> None:
    """Log plain lines to stderr. Drivers call it, and so do workers that report progress."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for chatty in (
        "aiobotocore",
        "botocore",
    ):  # they log where each client took its credentials from
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main(
    config_type: type[Config],
    run: Callable[[Config], object],
    description: str,
    *,
    command: str | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Parse the flags into `config_type`, call `run`, and exit with one of the codes above.

    Args:
        config_type: the frozen dataclass of the job. Its fields are the flags; other flags are refused.
        run: does the work; may raise `UserError`.
        description: paragraphs for ``--help``.
        command: the command that runs the job, for messages; by default the name of the program.
        arguments: the flags; by default those of `sys.argv`.
    """
    configure_logging()
    command = sys.argv[0] if command is None else command
    arguments = sys.argv[1:] if arguments is None else arguments
    everything = "--help-all" in arguments
    if everything or "--help" in arguments or "-h" in arguments:
        show(help.render(config_type, command, description, everything=everything))
    if list(arguments) == ["--version"]:
        show(VERSION)
    try:
        config = parse_arguments(config_type, arguments, command)
        check_texts(config)
        run(config)
    except Exception as error:
        ending = _ending(error)
        if ending is None:
            raise
        code, line = ending
        sys.stderr.write(f"{line}\n")
        sys.exit(code)


def show(text: str) -> NoReturn:
    """Write a text to stdout and exit with code 0, also if the reader has closed the pipe."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout again when it exits, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _ending(error: Exception) -> tuple[int, str] | None:
    """Return the exit code and the line to print; None for a bug, which is raised."""
    if isinstance(error, UserError) and "ray.exceptions" not in sys.modules:
        return 2, f"error: {error}"
    from ray.exceptions import RayTaskError

    known = isinstance(error, UserError | JobError | StorageError)
    if known and isinstance(error, RayTaskError):
        # It is also an instance of the class that the worker raised. Exit code 2 is only for errors before
        # a worker starts.
        return 1, f"failed: {one_line(error.cause)}"
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    # A JobError; or a StorageError, when the store or the disk failed, which may work at another time.
    return (1, f"failed: {error}") if known else None
