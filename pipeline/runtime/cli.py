"""Runs a job as a process: flags -> config -> run -> exit code.

Exit codes (design contract, section 3): 0: the job is done. 1: the job failed; the same command continues it.
2: the user must change the command or something it names; one line says so before any worker starts.
130, 143: SIGINT or SIGTERM ended the job (`pipeline.runtime.ending`); the same command continues it.

Ray, torch and storage are imported when a job runs, because --help and flag errors do not need them.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NoReturn, TypeVar

from fastrcnn import __version__
from pipeline.errors import JobError, ObjectUnreachable, StorageError, UserError, one_line
from pipeline.runtime import ending, help
from pipeline.runtime.arguments import parse_arguments
from pipeline.runtime.flags import check_texts
from pipeline.runtime.quiet import without_noise

Config = TypeVar("Config")
VERSION = f"fastrcnn-ray {__version__}\n"
_AGAIN = "Run the same command again: it continues"
_OF_THE_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
)
"""Errors that are no bug: a disk is full or read-only, or a limit on open files is too low."""
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable that Ray sets for the process that `ray job submit` starts."""
_LONGEST = 600
"""Characters of such an error that are shown."""


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
    guarded: bool = True,
) -> None:
    """Parse the flags into `config_type`, call `run`, and exit with one of the codes above.

    Args:
        config_type: the frozen dataclass of the job. Its fields are the flags; other flags are refused.
        run: does the work; may raise `UserError`.
        description: paragraphs for ``--help``.
        command: the command that runs the job, for messages; by default the name of the program.
        arguments: the flags; by default those of `sys.argv`.
        guarded: end the job in one line on a signal. False for a job that has its own handlers.
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
        with ExitStack() as stack:
            stack.enter_context(without_noise())
            if guarded:
                stack.enter_context(ending.guarded())
            config = parse_arguments(config_type, arguments, command)
            check_texts(config)
            _check_output(config)
            run(config)
    except Exception as error:
        end = _exit_code_and_line(error)
        if end is None:
            raise
        code, line = end
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


def _check_output(config: object) -> None:
    """Refuse a relative --output in a job that `ray job submit` started.

    Its working directory is a copy of the checkout on the head node. Nobody looks for results there, and Ray
    deletes it.

    Raises:
        UserError: the output is such a path.
    """
    output = getattr(config, "output", None)
    if not isinstance(output, str) or _SUBMITTED not in os.environ:
        return
    path = output.removeprefix("file://")
    if "://" not in path and not os.path.isabs(os.path.expanduser(path)):
        raise UserError(
            f"--output {output}",
            "is relative, but this job was submitted: it would lie in Ray's copy of the working directory on"
            " the head node, which Ray deletes",
            "Give a URI such as s3://bucket/prefix, or an absolute path that all nodes share.",
        )


def _exit_code_and_line(error: Exception) -> tuple[int, str] | None:
    """Return the exit code and the line to print; None for a bug, which is raised."""
    unanswered = next((e for e in _causes(error) if isinstance(e, ObjectUnreachable)), None)
    if unanswered is not None and not isinstance(error, JobError):
        # Also where a caller took it for a fault of the object: the store gave no answer.
        return 1, f"failed: {one_line(unanswered)}. {_AGAIN}"
    if isinstance(error, UserError) and "ray.exceptions" not in sys.modules:
        return 2, f"error: {error}"
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayTaskError

    known = isinstance(error, UserError | JobError | StorageError)
    if known and isinstance(error, RayTaskError):
        # It is also an instance of the class that the worker raised. Exit code 2 is only for errors before
        # a worker starts.
        return 1, f"failed: {one_line(error.cause)}"
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    if known:
        # A JobError; or a StorageError, when the store or the disk failed, which may work at another time.
        return 1, f"failed: {error}"
    if any(
        _is_of_the_machine(e) or isinstance(e, ObjectStoreFullError | OutOfDiskError)
        for e in _causes(error)
    ):
        return 1, (
            f"failed: {one_line(error)[:_LONGEST]}. Free space or raise the limit that this names (the"
            f" temporary folder is {tempfile.gettempdir()}). {_AGAIN}"
        )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and the ones that it was raised from; also those of a Ray worker."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = getattr(cause, "cause", None) or cause.__cause__


def _is_of_the_machine(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return True
    # pyarrow's and DuckDB's exceptions have no error number.
    from_library = isinstance(error, OSError) or type(error).__module__.endswith("duckdb")
    return from_library and any(os.strerror(code) in str(error) for code in _OF_THE_MACHINE)
