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
from typing import Protocol

import pyarrow.fs as pafs

from pipeline.errors import ObjectDenied, ObjectMissing, StorageError, UserError
from pipeline.storage.local import LocalStore
from pipeline.storage.other import FsspecStore
from pipeline.storage.retry import DEADLINE_S, DRIVER_DEADLINE_S
from pipeline.storage.s3 import S3Store
from pipeline.storage.uris import Location, ObjectInfo, join, parse

STORES: Mapping[str, Callable[[str, str], Store]] = {
    "file": lambda scheme, root: LocalStore(root),
    "s3": lambda scheme, root: S3Store(root),
    "s3a": lambda scheme, root: S3Store(root),
}
"""Scheme -> a function of (scheme, root) that makes the store. Every other scheme gets an `FsspecStore`."""
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
    def upload(self, local: Path, path: str) -> None: ...
    def download(self, path: str, local: Path, *, deadline_s: float) -> None: ...


def stat(uri: str, *, deadline_s: float = DEADLINE_S) -> ObjectInfo:
    """Return ETag and size of one object. Raises `StorageError`."""
    location = parse(uri)
    return store_of(location).stat(location.path, deadline_s=deadline_s)


def exists(uri: str) -> bool:
    """Whether an object of this name exists.

    Raises:
        UserError: no such bucket, no access, or no answer.
    """
    location = parse(uri)
    store = store_of(location)
    with driver_errors(uri):
        try:
            store.stat(location.path, deadline_s=DRIVER_DEADLINE_S)
        except ObjectMissing:
            store.check_bucket(location.path, deadline_s=DRIVER_DEADLINE_S)
            return False
    return True


def read_bytes(
    uri: str,
    *,
    etag: str | None = None,
    max_bytes: int | None = None,
    deadline_s: float = DEADLINE_S,
) -> bytes:
    """Read a whole object and check its length.

    Args:
        uri: the object.
        etag: the ETag that the object must still have; None accepts any.
        max_bytes: larger objects are refused before their body is fetched; None sets no limit.
        deadline_s: no attempt starts later than this after the first, in seconds.

    Raises:
        StorageError: the object cannot be read; `status` names the kind of cause. Server errors, resets and
            cut bodies are tried again first.
    """
    location = parse(uri)
    return store_of(location).read(
        location.path, etag=etag, max_bytes=max_bytes, deadline_s=deadline_s
    )


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
def local_copy(uri: str, *, deadline_s: float = DRIVER_DEADLINE_S) -> Iterator[Path]:
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
        store_of(location).download(location.path, path, deadline_s=deadline_s)
        yield path


def create_bytes(uri: str, data: bytes) -> bool:
    """Create an object, unless the name is taken.

    Returns:
        True if the object now holds `data`; False if it already held something else. If the answer to a PUT
        is lost, the retry finds the name taken. So the content decides.

    Raises:
        StorageError: it could not be determined which.
    """
    location = parse(uri)
    store = store_of(location)
    if store.create(location.path, data):
        return True
    existing = store.read(location.path, etag=None, max_bytes=None, deadline_s=DEADLINE_S)
    return existing == data


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


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of `uri` and the path in it, for pyarrow.dataset and for Ray's storage."""
    location = parse(uri)
    return store_of(location).arrow_filesystem(), location.path


@contextmanager
def driver_errors(uri: str) -> Iterator[None]:
    """Turn a `StorageError` on the driver, before any worker has started, into a `UserError`."""
    try:
        yield
    except ObjectMissing as error:
        raise UserError(uri, "does not exist", f"Check the name ({error}).") from error
    except StorageError as error:
        store = store_of(parse(uri))
        if isinstance(error, ObjectDenied):
            why, advice = "access is denied", store.denied_advice
        else:
            why, advice = "cannot be reached", store.unreachable_advice
        raise UserError(uri, why, f"{advice} ({error}).") from error


_lock = threading.Lock()


def store_of(location: Location) -> Store:
    """Return the store of a location. It is made once a process."""
    # It is made again if an AWS variable changes, because the variables configure its client.
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    with _lock:
        return _make_store(os.getpid(), environment, location.scheme, location.root)


@functools.lru_cache(maxsize=8)
def _make_store(
    pid: int, environment: tuple[tuple[str, str], ...], scheme: str, root: str
) -> Store:
    return STORES.get(scheme, FsspecStore)(scheme, root)
