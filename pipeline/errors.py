"""The exceptions of the jobs. Each has a one-line message that a user can act on.

    UserError              a wrong flag, missing data, an unreadable checkpoint: exit code 2
    JobError               the job failed while it ran: exit code 1, the same command continues
    StorageError           one object cannot be read or written; a row's `status` names the kind
      ObjectMissing        `missing`      no such key, bucket or file
      ObjectChanged        `changed`      the object no longer has the ETag that was asked for
      ObjectDenied         `denied`       credentials are missing, wrong or not allowed
      ObjectTooLarge       `too_large`    the object has more bytes than the caller takes
      ObjectUnreadable     `unreadable`   after the retries: server errors, cut bodies, I/O errors

A `StorageError` at a call that only the driver makes (listing, lists of images) becomes a `UserError`. Bytes
that are no image raise `pipeline.images.ImageError`. Everything else is a bug, and rises.
"""

from __future__ import annotations

from typing import ClassVar, Literal

StorageStatus = Literal["missing", "changed", "denied", "unreadable", "too_large"]


class UserError(Exception):
    """The command, or what it names, must be changed.

    Args:
        what: the value as it was given, e.g. ``--split holdout``.
        why: what is wrong with it.
        advice: what to do instead; often the values that would have worked.
    """

    def __init__(self, what: str, why: str, advice: str) -> None:
        super().__init__(
            what, why, advice
        )  # the arguments themselves, so that it survives pickling

    def __str__(self) -> str:
        what, why, advice = self.args
        return one_line(f"{what}: {why}. {advice}")


class JobError(Exception):
    """The job failed while it ran; one line says why. Files that were written stay, and are whole."""


class StorageError(Exception):
    """One object cannot be read or written; the message is ``<uri>: <cause>``."""

    status: ClassVar[StorageStatus] = "unreadable"
    """The `status` of the image's row in scored/; see `pipeline.schema.STATUSES`."""


class ObjectMissing(StorageError):
    status = "missing"


class ObjectChanged(StorageError):
    status = "changed"


class ObjectDenied(StorageError):
    status = "denied"


class ObjectTooLarge(StorageError):
    status = "too_large"


class ObjectUnreadable(StorageError):
    status = "unreadable"


def one_line(error: object) -> str:
    """The text of an exception or of another value in one line; where there is no text, the type's name."""
    return " ".join(str(error).split()) or type(error).__name__
