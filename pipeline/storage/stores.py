"""The kinds of storage: what each can do, and which one a URI is in."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow.fs as pafs

from pipeline.errors import ObjectDenied
from pipeline.storage.access import OPEN, SCHEMES, WEB, Access, links
from pipeline.storage.chains import PACKED
from pipeline.storage.local import LocalStore
from pipeline.storage.other import FsspecStore
from pipeline.storage.s3 import S3Store
from pipeline.storage.uris import Location, ObjectInfo, scheme_of
from pipeline.storage.web import WebStore

STORES: Mapping[str, Callable[[str, str], Store]] = {
    "file": lambda scheme, root: LocalStore(root),
    "s3": lambda scheme, root: S3Store(root),
    "s3a": lambda scheme, root: S3Store(root),
}
"""Scheme -> a function of (scheme, root) that makes the store. http and https get a `WebStore`, tar, zip and
parquet an `ArchiveStore`, every other scheme an `FsspecStore`."""


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
