"""What every job's process does: flags -> config -> run -> exit code.

Exit codes (design contract, section 3): 0 done; 1 the job failed, running it again continues; 2 the user has
to change the command or what it names, which one line says before any worker starts.

Ray, torch and storage are imported when a job runs, not before: --help and flag errors need none of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.errors import JobError, StorageError, UserError, one_line
from pipeline.runtime import help
from pipeline.runtime.arguments import parse_arguments

Config = TypeVar("Config")


def configure_logging() -> None:
    """Plain lines on stderr; for drivers here, and for workers that report progress."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for chatty in ("aiobotocore", "botocore"):  # where each client found its credentials
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main(
    config_type: type[Config],
    run: Callable[[Config], object],
    description: str,
    *,
    command: str | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Parse the flags into `config_type`, call `run`, and exit with the code above.

    Args:
        config_type: the job's frozen dataclass; its fields are the flags, unknown ones are refused.
        run: does the work; may raise `UserError`.
        description: paragraphs for ``--help``.
        command: what runs the job, for messages; by default the program's name.
        arguments: the flags; by default those of `sys.argv`.
    """
    configure_logging()
    command = sys.argv[0] if command is None else command
    arguments = sys.argv[1:] if arguments is None else arguments
    everything = "--help-all" in arguments
    if everything or "--help" in arguments or "-h" in arguments:
        sys.stdout.write(help.render(config_type, command, description, everything=everything))
        sys.exit(0)
    try:
        run(parse_arguments(config_type, arguments, command))
    except Exception as error:
        ending = _ending(error)
        if ending is None:
            raise
        code, line = ending
        sys.stderr.write(f"{line}\n")
        sys.exit(code)


def _ending(error: Exception) -> tuple[int, str] | None:
    """Exit code and line; None for a bug, which rises."""
    if isinstance(error, UserError) and "ray.exceptions" not in sys.modules:
        return 2, f"error: {error}"
    from ray.exceptions import RayTaskError

    known = isinstance(error, UserError | JobError | StorageError)
    if known and isinstance(error, RayTaskError):
        # Also an instance of what the worker raised. There it was too late to be the user's mistake.
        return 1, f"failed: {one_line(error.cause)}"
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    # A StorageError: the store or the disk refused; it may work another time.
    return (1, f"failed: {error}") if known else None
