"""What is wrong with a member of an archive, or with an archive.

The index writes it into the plan as ``status: cause``, and reading raises the error of this status.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import (
    MemberUndecodable,
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreadable,
    StorageError,
    one_line,
)

_ERRORS: Mapping[str, type[StorageError]] = {
    "changed": ObjectChanged,
    "denied": ObjectDenied,
    "missing": ObjectMissing,
    "too_large": ObjectTooLarge,
    "undecodable": MemberUndecodable,
    "unreadable": ObjectUnreadable,
}


class DamagedArchiveError(Exception):
    """An archive cannot be read from `offset` on."""

    def __init__(self, offset: int, cause: str) -> None:
        super().__init__(offset, cause)
        self.offset, self.cause = offset, cause

    @property
    def problem(self) -> str:
        """The text in the plan."""
        return undecodable(f"the archive {self.cause} (at byte {self.offset})")


def undecodable(cause: str) -> str:
    """Return the text in the plan for a member that cannot become an image."""
    return f"undecodable: {one_line(cause)}"


def unlisted(error: StorageError) -> str:
    """Return the text in the plan for an archive whose members cannot be listed."""
    return f"{error.status}: the members of the archive could not be listed ({one_line(error)})"


def too_large(cause: str) -> str:
    """Return the text in the plan for a member that is larger than a limit."""
    return f"too_large: {one_line(cause)}"


def error_of(uri: str, problem: str) -> StorageError:
    """Return the error for a text in the plan."""
    status, _, cause = problem.partition(": ")
    return _ERRORS.get(status, MemberUndecodable)(f"{uri}: {cause}")
