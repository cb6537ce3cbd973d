"""What can be wrong with one object.

    StorageError
      ObjectMissing      `missing`      no such key, bucket or file
      ObjectChanged      `changed`      there, but no longer with the ETag that was asked for
      ObjectDenied       `denied`       credentials missing, wrong or not allowed
      ObjectTooLarge     `too_large`    more bytes than the caller wanted to take
      ObjectUnreadable   `unreadable`   all else, after the retries: server errors, cut bodies, I/O errors

On paths that only the driver takes (listing, `exists`, manifests) they become a `UserError` instead.
"""

from __future__ import annotations

from typing import ClassVar, Literal

StorageStatus = Literal["missing", "changed", "denied", "unreadable", "too_large"]


class StorageError(Exception):
    """One object could not be had; the message is ``<uri>: <cause>``."""

    status: ClassVar[StorageStatus] = "unreadable"
    """What `scored/` says of the image; see `pipeline.schema.STATUSES`."""


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


class Transient(Exception):
    """One attempt failed in a way that another may not; never leaves `pipeline.storage`."""
