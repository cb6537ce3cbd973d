"""All other storage that fsspec has a driver for (gs, az, memory, ...), through fsspec's common methods.

These methods allow less than the S3 store does. The ETag is compared before and after a read, and not by the
server. Retries are left to the driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs

from pipeline.errors import (
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreadable,
    StorageError,
    UserError,
    one_line,
)
from pipeline.storage.uris import ObjectInfo

NO_VERSION = "no-version"
"""The ETag of an object for which the store states neither a version nor a size."""
_LONGEST_CAUSE = 120
"""Characters of a driver's error that are shown."""
_VERSION_FIELDS = ("etag", "ETag", "generation", "last_modified", "mtime", "updated", "created")


class NoDriver(UserError, ObjectUnreadable):
    """No driver reads this scheme. For a command this is an error of the user, for one image a status."""


def filesystem(scheme: str, **options: Any) -> Any:
    """Return the driver's file system, which its own environment variables configure.

    Args:
        scheme: names the driver.
        options: of the driver. With any, the file system is not shared.

    Raises:
        NoDriver: no driver has this scheme, its package is not installed, or the scheme alone is not enough
            for it, as ``reference://`` needs a file.
    """
    if options:
        options["skip_instance_cache"] = True
    try:
        return fsspec.get_filesystem_class(scheme)(use_listings_cache=False, **options)
    except Exception as error:  # each driver has different exception classes
        raise NoDriver(
            f"{scheme}://",
            f"has no storage driver ({_shortened(one_line(error))})",
            "s3://, https:// and local paths are built in. For gs:// and az://, install the extras gcs and "
            "azure.",
        ) from error


def _shortened(cause: str) -> str:
    """Cut a cause that is long: pyarrow lists each folder in which it looks for Hadoop's library."""
    return cause if len(cause) <= _LONGEST_CAUSE else f"{cause[:_LONGEST_CAUSE].rstrip()} …"


class FsspecStore:
    """The store for a scheme of fsspec. A path is what follows ``scheme://``."""

    lists_in_order = False
    denied_advice = unreachable_advice = "Check the name and the permissions"

    def __init__(self, scheme: str, root: str) -> None:
        self._root = root
        self._fs = filesystem(scheme)

    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo:
        """Return size and version of an object."""
        with self._errors(path):
            info = self._fs.info(self._key(path))
            if info["type"] == "file":
                return self._info(info)
        raise ObjectMissing(f"{self._root}{path}: is not an object")

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Yield every object whose path starts with `prefix`, folder by folder."""
        folder = prefix.rpartition("/")[0]
        with self._errors(prefix):
            if not self._fs.exists(self._key(folder)):
                return
            for _, _, files in self._fs.walk(self._key(folder), detail=True, on_error="raise"):
                infos = [self._info(info) for info in files.values()]
                yield [info for info in infos if info.uri.startswith(self._root + prefix)]

    def check_bucket(self, path: str, *, deadline_s: float) -> None:
        """`stat` raises ObjectMissing for a missing bucket too."""

    def arrow_filesystem(self) -> pafs.FileSystem:
        return pafs.PyFileSystem(pafs.FSSpecHandler(self._fs))

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        """Read a whole object; check that its version is the same before and after."""
        before = self.stat(path, deadline_s=deadline_s)
        if etag is not None and before.etag != etag:
            raise ObjectChanged(
                f"{before.uri}: its ETag is {before.etag}, but it was {etag} when it was listed"
            )
        if max_bytes is not None and before.size is not None and before.size > max_bytes:
            raise ObjectTooLarge(
                f"{before.uri}: has {before.size} bytes, more than the limit of {max_bytes}"
            )
        with self._errors(path):
            data: bytes = self._fs.cat_file(self._key(path))
        after = self.stat(path, deadline_s=deadline_s)
        if after.etag != before.etag or after.size not in (None, len(data)):
            raise ObjectChanged(f"{before.uri}: changed while it was read")
        return data

    def read_range(
        self, path: str, *, first: int, length: int, etag: str | None, deadline_s: float
    ) -> bytes:
        """Read a part of an object; check that its version is the same before and after."""
        before = self.stat(path, deadline_s=deadline_s)
        with self._errors(path):
            data: bytes = self._fs.cat_file(self._key(path), start=first, end=first + length)
        after = self.stat(path, deadline_s=deadline_s)
        if etag not in (None, before.etag) or after.etag != before.etag:
            raise ObjectChanged(f"{before.uri}: its ETag is {after.etag}, but it was {etag}")
        if len(data) != length:
            raise ObjectUnreadable(f"{before.uri}: has no {length} bytes from byte {first} on")
        return data

    def write(self, path: str, data: bytes) -> None:
        """Write an object; an object of this name is replaced."""
        with self._errors(path):
            self._fs.pipe_file(self._key(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Create an object; return False if the name is taken."""
        try:
            with self._errors(path):
                self._fs.pipe_file(self._key(path), data, mode="create")
        except _NameTakenError:
            return False
        return True

    def delete(self, path: str) -> None:
        """Delete an object if it exists."""
        try:
            with self._errors(path):
                self._fs.rm_file(self._key(path))
        except ObjectMissing:
            pass

    def upload(self, local: Path, path: str) -> None:
        """Upload a file. In object stores it becomes visible when its last block has arrived."""
        with self._errors(path):
            self._fs.put_file(str(local), self._key(path))

    def download(self, path: str, local: Path, *, deadline_s: float) -> None:
        """Download an object of any size into a file."""
        with self._errors(path):
            self._fs.get_file(self._key(path), str(local))

    def _key(self, path: str) -> str:
        key: str = self._fs._strip_protocol(self._root + path)
        return key

    def _info(self, info: dict[str, Any]) -> ObjectInfo:
        version = next((info[field] for field in _VERSION_FIELDS if info.get(field)), "")
        if isinstance(version, datetime):
            version = version.timestamp()  # some drivers give the same time as a number in listings
        size = None if info.get("size") is None else int(info["size"])
        etag = str(version).strip('"') or (NO_VERSION if size is None else f"{size:x}")
        return ObjectInfo(self._root + info["name"].lstrip("/"), etag, size)

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        uri = self._root + path
        try:
            yield
        except StorageError:
            raise
        except FileExistsError as error:
            raise _NameTakenError(uri) from error
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ObjectMissing(f"{uri}: {error}") from error
        except PermissionError as error:
            raise ObjectDenied(f"{uri}: {error}") from error
        except Exception as error:  # each driver has different exception classes
            raise ObjectUnreadable(f"{uri}: {type(error).__name__}: {error}") from error


class _NameTakenError(StorageError):
    """The name is taken."""
