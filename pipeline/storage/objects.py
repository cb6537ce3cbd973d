"""One object at a time: what the rest of the pipeline calls."""

from __future__ import annotations

import functools
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow.fs as pafs

from pipeline.errors import ObjectDenied, ObjectMissing, StorageError, UserError
from pipeline.storage import other, s3
from pipeline.storage.local import LocalStore
from pipeline.storage.other import FsspecStore
from pipeline.storage.retry import DEADLINE_S, DRIVER_DEADLINE_S
from pipeline.storage.s3 import S3Store
from pipeline.storage.uris import Location, ObjectInfo, join, parse

S3_SCHEMES = ("s3", "s3a")
_PROBE = "exclusive-create-probe"


class Store(Protocol):
    """What each kind of storage does; paths are those of `Location`."""

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
    """ETag and size of one object. Raises `StorageError`."""
    location = parse(uri)
    return store_of(location).stat(location.path, deadline_s=deadline_s)


def exists(uri: str) -> bool:
    """Whether there is an object of this name.

    Raises:
        UserError: no such bucket, no access, no answer.
    """
    location = parse(uri)
    store = store_of(location)
    with driver_errors(uri):
        try:
            store.stat(location.path, deadline_s=DRIVER_DEADLINE_S)
        except ObjectMissing:
            if isinstance(store, S3Store):
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
    """A whole object, its length checked.

    Args:
        uri: the object.
        etag: as listed; the object must still be that one.
        max_bytes: larger objects are refused before their body is fetched.
        deadline_s: no attempt starts later than this after the first, in seconds.

    Raises:
        StorageError: its `status` says which; server errors, resets and cut bodies only after retries.
    """
    location = parse(uri)
    return store_of(location).read(
        location.path, etag=etag, max_bytes=max_bytes, deadline_s=deadline_s
    )


def write_bytes(uri: str, data: bytes) -> None:
    """Put an object in one step, replacing what is there. Raises `StorageError`."""
    location = parse(uri)
    store_of(location).write(location.path, data)


def upload_file(local: Path, uri: str) -> None:
    """Put a file of any size in one step, replacing what is there: readers see the old object or the new.

    Raises:
        StorageError: it is not there, or what was there stayed.
    """
    location = parse(uri)
    store_of(location).upload(local, location.path)


@contextmanager
def local_copy(uri: str, *, deadline_s: float = DRIVER_DEADLINE_S) -> Iterator[Path]:
    """An object of any size as a file of this machine: itself where it is one, else a copy for as long as it
    is needed. Raises `StorageError`."""
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
    """Put an object unless the name is taken.

    Returns:
        True where the object now holds `data`; False where it already held something else. A PUT whose
        acknowledgement was lost looks taken when it is retried, so the content decides.

    Raises:
        StorageError: neither could be found out.
    """
    location = parse(uri)
    store = store_of(location)
    if store.create(location.path, data):
        return True
    there = store.read(location.path, etag=None, max_bytes=None, deadline_s=DEADLINE_S)
    return there == data


def check_exclusive_create(uri: str) -> None:
    """Prove on a small object under `uri` (made once, never deleted) that a second create is refused.

    Raises:
        UserError: the store ignores the condition, so two writers would overwrite each other; or no access.
    """
    probe = parse(join(uri, _PROBE))
    store = store_of(probe)
    with driver_errors(uri):
        # Fresh content each time: were the first create ours or not, the second must be refused.
        store.create(probe.path, uuid.uuid4().hex.encode())
        if store.create(probe.path, uuid.uuid4().hex.encode()):
            raise UserError(
                uri,
                "the store ignores If-None-Match, so two runs could overwrite each other's results",
                "Use a store with conditional writes (AWS S3, Ceph RGW, MinIO, R2, GCS, Azure, local disk)",
            )


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """For pyarrow.dataset and Ray's `storage_filesystem`: the file system, and the path of `uri` in it."""
    location = parse(uri)
    if location.is_local:
        return pafs.LocalFileSystem(), location.path
    if location.scheme in S3_SCHEMES:
        filesystem = s3.filesystem()
    else:
        filesystem = other.filesystem(location.scheme)
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), location.path


@contextmanager
def driver_errors(uri: str) -> Iterator[None]:
    """On the driver, before any worker started, a `StorageError` is the user's to mend."""
    try:
        yield
    except ObjectMissing as error:
        raise UserError(uri, "is not there", f"Check the name ({error}).") from error
    except StorageError as error:
        denied = isinstance(error, ObjectDenied)
        why = "no access" if denied else "cannot be reached"
        if parse(uri).scheme not in S3_SCHEMES:
            mend = f"Check name and rights ({error})."
        elif denied:
            mend = f"Check AWS_ACCESS_KEY_ID and its like, or the rights ({error})."
        else:
            mend = f"Check the URI and AWS_ENDPOINT_URL ({error})."
        raise UserError(uri, why, mend) from error


_lock = threading.Lock()


def store_of(location: Location) -> Store:
    """The store of a location; one client a process."""
    if location.is_local:
        return LocalStore(location.root)
    # A client is made once a process, and again when the environment it was configured by changes.
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    with _lock:
        return _remote_store(os.getpid(), environment, location.scheme, location.root)


@functools.lru_cache(maxsize=8)
def _remote_store(
    pid: int, environment: tuple[tuple[str, str], ...], scheme: str, root: str
) -> Store:
    return S3Store(root) if scheme in S3_SCHEMES else FsspecStore(scheme, root)
