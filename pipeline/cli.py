"""What every job's `__main__` does: flags -> config -> run -> exit code.

Exit codes (design contract, section 3): 0 done; 1 the job failed, running it again continues;
2 the user can mend it, said in one line before any worker started.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

from pipeline.errors import JobError, UserError
from pipeline.storage import StorageError

Config = TypeVar("Config")


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
        run(tyro.cli(config_type, description=description, config=(tyro.conf.FlagCreatePairsOff,)))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except (
        JobError,
        StorageError,
    ) as error:  # the store or the disk would not: it may another time
        sys.stderr.write(f"failed: {error}\n")
        sys.exit(1)
