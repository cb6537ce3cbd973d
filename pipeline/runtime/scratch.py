"""The temporary folder of a job: everything that it leaves for a while lies below, and it is always deleted.

The decoders, and the workers of a Ray that the job starts, inherit it as TMPDIR. A job that was killed by
SIGKILL leaves its folder; the next job on this machine deletes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.errors import UserError

_PREFIX = "fastrcnn-ray-"
_LOCK = "lock"
LEAST_BYTES = 16 * 2**20
"""Free space that every job needs. A job of a thousand images takes less than a megabyte of it."""
_VARIABLES = ("TMPDIR", "RAY_TMPDIR")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder in the temporary folder, use it as the temporary folder, and delete it at the end.

    Ray's session stays where it is without this: other programs look for it there.

    Raises:
        UserError: the temporary folder does not exist, is full or cannot be written to.
    """
    parent = check_temporary_folder()
    _sweep(parent)
    with ExitStack() as stack:
        folder = stack.enter_context(_locked_folder(parent))
        before = {name: os.environ.get(name) for name in _VARIABLES}
        stack.callback(_restore, before, tempfile.tempdir)
        os.environ["RAY_TMPDIR"] = before["RAY_TMPDIR"] or str(parent)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        yield folder


@contextmanager
def _locked_folder(parent: Path) -> Iterator[Path]:
    """Make a folder with a lock. While it is held, no other job takes the folder for one that was left."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with open(folder / _LOCK, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / _LOCK).exists():
                continue  # another job deleted it before it was locked
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def check_temporary_folder() -> Path:
    """Return the temporary folder of this machine: TMPDIR if it exists, else Python's choice.

    Python takes another folder without a word if TMPDIR is full, but Ray does not.

    Raises:
        UserError: it cannot be used.
    """
    named = os.environ.get("TMPDIR")
    try:
        parent = Path(named if named and os.path.isdir(named) else tempfile.gettempdir()).absolute()
    except FileNotFoundError as error:
        raise _unusable("/tmp", str(error.strerror)) from error
    try:
        status = os.statvfs(parent)
        free = status.f_bavail * status.f_frsize
        if status.f_blocks and free < LEAST_BYTES:
            raise _unusable(parent, f"has {free / 2**20:.1f} MiB of free space")
        with tempfile.TemporaryFile(
            dir=parent
        ) as file:  # it may be read-only, or a quota may be used up
            file.write(bytes(2**20))
    except OSError as error:
        raise _unusable(parent, f"cannot be written to ({error.strerror})") from error
    return parent


def _unusable(folder: object, why: str) -> UserError:
    return UserError(
        f"the temporary folder {folder}",
        f"{why}, but a job needs {LEAST_BYTES // 2**20} MiB there",
        "Delete files in it, or set TMPDIR to another folder.",
    )


def _sweep(parent: Path) -> None:
    """Delete the folders of jobs that do not run any more."""
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        # Another user's folder, or one that another job deletes at this moment.
        with suppress(PermissionError, FileNotFoundError), open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(lock.parent, ignore_errors=True)


def _restore(variables: dict[str, str | None], tempdir: str | None) -> None:
    tempfile.tempdir = tempdir
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
