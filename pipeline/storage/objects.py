"""Reads, writes and checks one object at a time. The rest of the pipeline calls these functions."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs

from pipeline.errors import (
    JobError,
    NotAFile,
    ObjectDenied,
    ObjectMissing,
    ObjectUnreachable,
    ObjectUnreadable,
    StorageError,
    UserError,
)
from pipeline.storage.access import OPEN, Access
from pipeline.storage.retry import DEADLINE_S
from pipeline.storage.stores import (
    ClockedStore,
    ListedStore,
    RangedStore,
    check_access,
    store_of,
)
from pipeline.storage.uris import ObjectInfo, join, parse

_PROBE = "exclusive-create-probe"


def age_s(uri: str) -> float | None:
    """Return how long ago an object was written, by the store's clock. None if the store does not say.

    Raises `StorageError`.
    """
    location = parse(uri)
    store = store_of(location)
    if not isinstance(store, ClockedStore):
        return None
    return store.age_s(location.path, deadline_s=DEADLINE_S)


def stat(uri: str, *, deadline_s: float = DEADLINE_S, access: Access = OPEN) -> ObjectInfo:
    """Return ETag and size of one object. Raises `StorageError`."""
    check_access(uri, access)
    location = parse(uri)
    return store_of(location, access).stat(location.path, deadline_s=deadline_s)


def exists(uri: str) -> bool:
    """Whether an object of this name exists.

    Raises:
        UserError: no such bucket, or no access.
        JobError: no answer.
    """
    location = parse(uri)
    store = store_of(location)
    with driver_errors(uri):
        try:
            store.stat(location.path, deadline_s=DEADLINE_S)
        except ObjectMissing:
            store.check_bucket(location.path, deadline_s=DEADLINE_S)
            return False
    return True


def read_bytes(
    uri: str,
    *,
    etag: str | None = None,
    max_bytes: int | None = None,
    deadline_s: float = DEADLINE_S,
    access: Access = OPEN,
) -> bytes:
    """Read a whole object and check its length.

    Args:
        uri: the object.
        etag: the ETag that the object must still have; None accepts any.
        max_bytes: larger objects are refused before their body is fetched; None sets no limit.
        deadline_s: no attempt starts later than this after the first, in seconds.
        access: what may be read; anything else is `denied`.

    Raises:
        StorageError: the object cannot be read; `status` names the kind of cause. Server errors, resets and
            cut bodies are tried again first.
    """
    check_access(uri, access)
    location = parse(uri)
    return store_of(location, access).read(
        location.path, etag=etag, max_bytes=max_bytes, deadline_s=deadline_s
    )


def read_range(
    uri: str,
    *,
    first: int,
    length: int,
    etag: str | None = None,
    deadline_s: float = DEADLINE_S,
    access: Access = OPEN,
) -> bytes:
    """Read a part of an object, and check its length. Arguments as for `read_bytes`.

    Args:
        first: the first byte, counted from 0.
        length: the number of bytes. The object must have so many.

    Raises:
        StorageError: the part cannot be read, as for `read_bytes`.
    """
    check_access(uri, access)
    location = parse(uri)
    store = store_of(location, access)
    if not isinstance(store, RangedStore):
        raise ObjectUnreadable(
            f"{uri}: the storage of {location.scheme}:// gives no parts of objects"
        )
    if length == 0:
        return b""
    return store.read_range(
        location.path, first=first, length=length, etag=etag, deadline_s=deadline_s
    )


def gives_ranges(uri: str, access: Access = OPEN) -> bool:
    """Whether parts of objects can be read from this storage."""
    return isinstance(store_of(parse(uri), access), RangedStore)


def read_listed(info: ObjectInfo) -> bytes:
    """Read a small object that was listed before. Of many objects in threads, this is the fastest way.

    Raises:
        StorageError: the object cannot be read, as for `read_bytes`.
    """
    location = parse(info.uri)
    store = store_of(location)
    if isinstance(store, ListedStore):
        return store.read_listed(location.path, info)
    return store.read(location.path, etag=None, max_bytes=None, deadline_s=DEADLINE_S)


def write_bytes(uri: str, data: bytes) -> None:
    """Write an object in one step; an object of this name is replaced. Raises `StorageError`."""
    location = parse(uri)
    store_of(location).write(location.path, data)


def upload_file(local: Path, uri: str) -> None:
    """Upload a file of any size. Readers see the old object or the new one, never a part.

    Raises:
        StorageError: the upload failed; an old object has stayed.
    """
    location = parse(uri)
    store_of(location).upload(local, location.path)


@contextmanager
def local_copy(
    uri: str, *, deadline_s: float = DEADLINE_S, access: Access = OPEN
) -> Iterator[Path]:
    """Give an object of any size as a local file: a local object itself, else a temporary copy.

    Raises:
        StorageError: the object cannot be read.
    """
    location = parse(uri)
    if location.is_local:
        store_of(location).stat(location.path, deadline_s=deadline_s)
        yield Path(location.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        store_of(location, access).download(location.path, path, deadline_s=deadline_s)
        yield path


def create_bytes(uri: str, data: bytes) -> bool:
    """Create an object, unless the name is taken.

    Returns:
        True if the object now holds `data`; False if it already held something else. If the answer to a PUT
        is lost, the retry finds the name taken. So the content decides.

    Raises:
        UserError: a folder or a broken link has this name.
        StorageError: it could not be determined which.
    """
    location = parse(uri)
    store = store_of(location)
    if store.create(location.path, data):
        return True
    try:
        existing = store.read(location.path, etag=None, max_bytes=None, deadline_s=DEADLINE_S)
    except NotAFile as error:
        raise error.in_the_way() from error
    return existing == data


def delete(uri: str) -> None:
    """Delete an object. An object that does not exist is no error.

    Repairs of the record and the leases of a training call this. Nothing else is ever deleted.

    Raises:
        StorageError: the store does not allow it.
    """
    location = parse(uri)
    store_of(location).delete(location.path)


def check_exclusive_create(uri: str) -> None:
    """Check with a small object under `uri` that the store refuses a second create.

    The object is created once and never deleted.

    Raises:
        UserError: the store ignores the condition, so two writers would overwrite each other; or no access.
    """
    probe = parse(join(uri, _PROBE))
    store = store_of(probe)
    with driver_errors(uri):
        # New content each time: whether the first create succeeds or not, the second must be refused.
        store.create(probe.path, uuid.uuid4().hex.encode())
        if store.create(probe.path, uuid.uuid4().hex.encode()):
            raise UserError(
                uri,
                "the store ignores If-None-Match, so two runs could overwrite each other's results",
                "Use a store with conditional writes (AWS S3, Ceph RGW, MinIO, R2, GCS, Azure, local disk).",
            )


def check_writable(uri: str) -> None:
    """Check that files can be created below a local path, or that the path can be made. Writes nothing.

    Objects of a bucket are not checked, because only a write shows the right to write.

    Raises:
        UserError: it is below a file, in a folder of other users, or on a file system that is mounted
            read-only.
    """
    location = parse(uri)
    if not location.is_local:
        return
    present = Path(location.path)
    if present.is_file():  # it is replaced, for which its folder counts
        present = present.parent
    while not os.path.lexists(present):
        present = present.parent
    if not present.is_dir():
        raise UserError(uri, f"cannot be made: {present} is not a folder", "Give another --output.")
    if not os.access(present, os.W_OK | os.X_OK):
        raise UserError(
            uri,
            f"cannot be written to: {present} is read-only, or belongs to another user",
            "Give another --output.",
        )


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of `uri` and the path in it, for pyarrow.dataset and for Ray's storage."""
    location = parse(uri)
    return store_of(location).arrow_filesystem(), location.path


@contextmanager
def driver_errors(uri: str) -> Iterator[None]:
    """Turn a `StorageError` on the driver into a `UserError`; if the store did not answer, a `JobError`."""
    try:
        yield
    except UserError:  # also NoDriver, which is a StorageError too
        raise
    except NotAFile as error:
        raise error.in_the_way() from error
    except ObjectMissing as error:
        raise UserError(uri, "does not exist", f"Check the name ({error}).") from error
    except ObjectUnreachable as error:
        advice = store_of(parse(uri)).unreachable_advice
        raise JobError(
            f"{error}. {advice}; when the store answers, run the same command again: it continues"
        ) from error
    except StorageError as error:
        store = store_of(parse(uri))
        if isinstance(error, ObjectDenied):
            why, advice = "access is denied", store.denied_advice
        else:
            why, advice = "cannot be reached", store.unreachable_advice
        raise UserError(uri, why, f"{advice} ({error}).") from error
