"""Reads and writes files of this machine so that no reader sees a half-written file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat as st
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow.fs as pafs

from pipeline.errors import (
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreadable,
)
from pipeline.storage.uris import ObjectInfo

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
"""Error numbers that mean: no unnamed files here. The file system or an old kernel has no O_TMPFILE; ENOENT:
there is no /proc through which such a file gets its name."""


class LocalStore:
    """The store for local files. Paths are absolute; `root` precedes them in URIs (empty, or ``file://``)."""

    lists_in_order = False
    denied_advice = unreachable_advice = "Check the name and the permissions"

    def __init__(self, root: str) -> None:
        self._root = root

    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo:
        """Return size and ETag of a regular file."""
        with self._errors(path):
            status = os.stat(path)
        if not st.S_ISREG(status.st_mode):
            raise ObjectMissing(f"{self._root}{path}: is not a regular file")
        return self._info(path, status)

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Yield the regular files whose path starts with `prefix`, by folder; follow links to folders."""
        seen: set[tuple[int, int]] = set()
        for folder, folders, names in os.walk(prefix.rpartition("/")[0] or "/", followlinks=True):
            with self._errors(folder):
                status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:  # a link to a folder that was listed already
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            # A temporary file is being written, or was left by a process that was killed.
            paths = [os.path.join(folder, name) for name in names if not _TEMPORARY.fullmatch(name)]
            infos = [self._info_of_entry(path) for path in paths if path.startswith(prefix)]
            yield [info for info in infos if info is not None]

    def check_bucket(self, path: str, *, deadline_s: float) -> None:
        """A disk has no buckets."""

    def arrow_filesystem(self) -> pafs.FileSystem:
        return pafs.LocalFileSystem()

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        """Read a whole file; check that it did not change while it was read."""
        with self._errors(path), open(path, "rb") as file:
            before = self._info(path, os.fstat(file.fileno()))
            if etag is not None and before.etag != etag:
                raise ObjectChanged(
                    f"{before.uri}: its ETag is {before.etag}, but it was {etag} when it was listed"
                )
            if max_bytes is not None and before.size > max_bytes:
                raise ObjectTooLarge(
                    f"{before.uri}: has {before.size} bytes, more than the limit of {max_bytes}"
                )
            data = file.read()
            after = self._info(path, os.fstat(file.fileno()))
        if after.etag != before.etag or len(data) != after.size:
            raise ObjectChanged(f"{before.uri}: changed while it was read")
        return data

    def write(self, path: str, data: bytes) -> None:
        """Replace the file in one step."""
        with self._errors(path), self._written_beside(path, data) as temporary:
            os.replace(temporary, path)

    def create(self, path: str, data: bytes) -> bool:
        """Create the whole file, or nothing; return False if the name is taken."""
        # open(..., "x") is exclusive too, but readers could see a half-written file
        with self._errors(path):
            try:
                return self._create_unnamed(path, data)
            except OSError as error:
                if error.errno not in _NO_UNNAMED_FILES:
                    raise
            with self._written_beside(path, data) as temporary:
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return False
            return True

    def _create_unnamed(self, path: str, data: bytes) -> bool:
        """Write a file without a name and name it when it is complete.

        A process that dies before that leaves no file behind.
        """
        if not hasattr(os, "O_TMPFILE"):
            raise OSError(errno.EOPNOTSUPP, "this system has no unnamed files")
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        with ExitStack() as stack:
            folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, folder_fd)
            unnamed = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
            with open(unnamed, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(unnamed)
                try:
                    # With a dst_dir_fd Python calls linkat, which follows the link in /proc.
                    os.link(f"/proc/self/fd/{unnamed}", name, dst_dir_fd=folder_fd)
                except FileExistsError:
                    return False
        return True

    def upload(self, local: Path, path: str) -> None:
        """Copy a file of any size, and replace the target in one step."""
        with self._errors(path), local.open("rb") as source:
            with self._written_beside(path, source) as temporary:
                os.replace(temporary, path)

    def download(self, path: str, local: Path, *, deadline_s: float) -> None:
        """Copy a file of any size to another path of this machine."""
        with self._errors(path):
            shutil.copyfile(path, local)

    @contextmanager
    def _written_beside(self, path: str, data: bytes | BinaryIO) -> Iterator[str]:
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        # Readers glob *.parquet and skip leading dots, so they do not take this name for a table.
        temporary = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "xb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, 1 << 20)
                file.flush()
                # Without this, the name may survive a power failure and the content may not.
                os.fsync(file.fileno())
            yield temporary
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _info_of_entry(self, path: str) -> ObjectInfo | None:
        """Return the info of an entry of a folder; None if it is not a regular file."""
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise ObjectUnreadable(f"{self._root}{path!r}: its name is not UTF-8") from error
        try:
            status = os.stat(path)
        except FileNotFoundError:
            # A broken link, or deleted since: it stays in the list, and reading it gives `missing`.
            return ObjectInfo(self._root + path, "", 0)
        return self._info(path, status) if st.S_ISREG(status.st_mode) else None

    def _info(self, path: str, status: os.stat_result) -> ObjectInfo:
        etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        return ObjectInfo(self._root + path, etag, status.st_size)

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        uri = self._root + path
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectMissing(f"{uri}: {error.strerror}") from error
        except PermissionError as error:
            if error.errno == errno.EPERM and Path(path).parent.is_dir():
                # link(2) gives EPERM if the file system has no hard links.
                raise ObjectUnreadable(f"{uri}: {error.strerror}") from error
            raise ObjectDenied(f"{uri}: {error.strerror}") from error
        except OSError as error:
            raise ObjectUnreadable(f"{uri}: {error.strerror}") from error
        except ValueError as error:  # a NUL in the path
            raise ObjectMissing(f"{uri!r}: {error}") from error
