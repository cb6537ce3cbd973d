"""The exceptions of the jobs. Each has a one-line message that a user can act on.

    UserError              a wrong flag, missing data, an unreadable checkpoint: exit code 2
    JobError               the job failed while it ran: exit code 1, the same command continues
    StorageError           one object cannot be read or written; a row's `status` names the kind
      ObjectMissing        `missing`      no such key or file
        BucketMissing      `unreadable`   no such bucket: the fault of the command or of one node
        NotAFile           `missing`      a folder or a broken link has the name
      ObjectChanged        `changed`      the object no longer has the ETag that was asked for
      ObjectDenied         `denied`       credentials are missing, wrong or not allowed
      ObjectTooLarge       `too_large`    the object has more bytes than the caller takes
      MemberUndecodable    `undecodable`  a member of an archive that is encrypted, sparse, damaged, ...
      ObjectUnreadable     `unreadable`   server errors, cut bodies, I/O errors
        ObjectUnreachable  `unreadable`   the store gave no good answer until the retries ended

A `StorageError` at a call that only the driver makes (listing, lists of images) becomes a `UserError`, and an
`ObjectUnreachable` a `JobError`: the command is right, and continues when the store answers. Bytes that are
no image raise `pipeline.images.ImageError`. Everything else is a bug, and rises.
"""

from __future__ import annotations

import traceback
from typing import ClassVar, Literal

StorageStatus = Literal["missing", "changed", "denied", "unreadable", "too_large", "undecodable"]


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
    status: ClassVar[StorageStatus] = "missing"


class BucketMissing(ObjectMissing):
    status = "unreadable"


class NotAFile(ObjectMissing):
    """A folder or a broken link has the name of a local file.

    Args:
        uri: its name.
        cause: what it is, e.g. ``is a folder``.
    """

    def __init__(self, uri: str, cause: str) -> None:
        super().__init__(uri, cause)  # the arguments themselves, so that it survives pickling

    def __str__(self) -> str:
        uri, cause = self.args
        return f"{uri}: {cause}"

    def in_the_way(self) -> UserError:
        """Return the error for a file that this program wants to read or write."""
        uri, cause = self.args
        return UserError(uri, f"{cause}, not a file", "Move it away, or give another name.")


class ObjectChanged(StorageError):
    status = "changed"


class ObjectDenied(StorageError):
    status = "denied"


class ObjectTooLarge(StorageError):
    status = "too_large"


class MemberUndecodable(StorageError):
    """A member of an archive, or an archive, cannot be read because of what it is."""

    status: ClassVar[StorageStatus] = "undecodable"


class ObjectUnreadable(StorageError):
    status = "unreadable"


class ObjectUnreachable(ObjectUnreadable):
    """Each attempt failed in a way that may pass: overload, a broken connection, no answer."""


def one_line(error: object) -> str:
    """The text of an exception or of another value in one line; where there is no text, the type's name."""
    return " ".join(str(error).split()) or type(error).__name__


def text_of(error: BaseException) -> str:
    """Return the text of an exception, or a remark if its class fails to make the text."""
    return str(traceback.TracebackException.from_exception(error, limit=0))
