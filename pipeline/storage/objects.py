"""Reads, writes and checks one object at a time. The rest of the pipeline calls these functions."""

from __future__ import annotations

import functools
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

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
from pipeline.storage.access import OPEN, SCHEMES, WEB, Access, links
from pipeline.storage.chains import PACKED
from pipeline.storage.local import LocalStore
from pipeline.storage.other import FsspecStore
from pipeline.storage.retry import DEADLINE_S
from pipeline.storage.s3 import S3Store
from pipeline.storage.uris import Location, ObjectInfo, join, parse, scheme_of
from pipeline.storage.web import WebStore

STORES: Mapping[str, Callable[[str, str], Store]] = {
    "file": lambda scheme, root: LocalStore(root),
    "s3": lambda scheme, root: S3Store(root),
    "s3a": lambda scheme, root: S3Store(root),
}
"""Scheme -> a function of (scheme, root) that makes the store. http and https get a `WebStore`, tar, zip and
parquet an `ArchiveStore`, every other scheme an `FsspecStore`."""
_PROBE = "exclusive-create-probe"


class Store(Protocol):
    """The methods that each kind of storage has. A path is `Location.path`."""

    lists_in_order: bool
    """Whether `iter_pages(..., ordered=True)` gives the keys in order."""
    denied_advice: str
    """What a user checks if access is denied."""
    unreachable_advice: str
    """What a user checks if there is no answer."""

    def check_bucket(self, path: str, *, deadline_s: float) -> None:
        """Raise ObjectMissing if what holds the path does not exist, and `stat` cannot tell."""

    def arrow_filesystem(self) -> pafs.FileSystem: ...
    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo: ...
    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]: ...
    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes: ...
    def write(self, path: str, data: bytes) -> None: ...
    def create(self, path: str, data: bytes) -> bool: ...
    def delete(self, path: str) -> None: ...
    def upload(self, local: Path, path: str) -> None: ...
    def download(self, path: str, local: Path, *, deadline_s: float) -> None: ...


@runtime_checkable
class ClockedStore(Protocol):
    """What a store may have in addition: its clock."""

    def age_s(self, path: str, *, deadline_s: float) -> float | None:
        """Return how long ago the object was written, in seconds of the store's clock. None if unknown."""


@runtime_checkable
class ListedStore(Protocol):
    """What a store may have in addition: a fast way to read many small objects."""

    def read_listed(self, path: str, info: ObjectInfo) -> bytes:
        """Read an object whose ETag and size are known."""


@runtime_checkable
class RangedStore(Protocol):
    """What a store may have in addition: reads of a part of an object. Archives need it."""

    def read_range(
        self, path: str, *, first: int, length: int, etag: str | None, deadline_s: float
    ) -> bytes:
        """Read `length` bytes from byte `first` on. The object must have the ETag."""


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


_lock = threading.Lock()


def check_access(uri: str, access: Access) -> None:
    """Raise ObjectDenied if a URI, or a link of a chain, has a scheme that may not be read."""
    if access.any_scheme and access.http:
        return
    for link in links(uri):
        scheme = scheme_of(link)
        if scheme == "http" and not access.http:
            raise ObjectDenied(f"{uri}: http is not encrypted; give --allow-http if it may be read")
        known = not scheme or scheme in SCHEMES or scheme in PACKED or scheme in STORES
        if not access.any_scheme and not known:
            raise ObjectDenied(
                f"{uri}: a list may not name {scheme}://; it may name s3://, gs://, az://, https:// and files"
            )


def store_of(location: Location, access: Access = OPEN) -> Store:
    """Return the store of a location. It is made once a process."""
    # It is made again if an AWS variable changes, because the variables configure its client.
    names = [name for name in os.environ if name.startswith("AWS_")]
    environment = tuple((name, os.environ[name]) for name in sorted(names))
    with _lock:
        # The other stores know no limits.
        limits = access if location.scheme in (*WEB, *PACKED) else OPEN
        return _make_store(os.getpid(), environment, location.scheme, location.root, limits)


@functools.lru_cache(maxsize=8)
def _make_store(
    pid: int, environment: tuple[tuple[str, str], ...], scheme: str, root: str, access: Access
) -> Store:
    if scheme in WEB and scheme not in STORES:
        return WebStore(scheme, root, access)
    if scheme in PACKED and scheme not in STORES:
        from pipeline.storage.archives.store import ArchiveStore  # it reads archives by this module

        return ArchiveStore(scheme, root, access)
    return STORES.get(scheme, FsspecStore)(scheme, root)
