"""Reads and writes files of this machine so that no reader sees a half-written file."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat as st
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow.fs as pafs

from pipeline.errors import (
    NotAFile,
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreadable,
)
from pipeline.storage.uris import ObjectInfo

logger = logging.getLogger(__name__)

_PAGE = 10_000
"""Files of one page of a listing at most."""
_Above = tuple[tuple[int, int], ...]
"""Device and inode of each folder that a folder lies in."""
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
        return self._info(path, self._regular(path))

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Yield the regular files whose path starts with `prefix`, page by page; follow links to folders.

        A link to a folder that it lies in is not followed. Two links to one other folder both are. Pipes,
        sockets and devices are left out, with a warning.

        Raises:
            ObjectDenied: a folder, or a file in it, may not be looked at.
        """
        special: list[str] = []
        todo: list[tuple[str, _Above]] = [(prefix.rpartition("/")[0] or "/", ())]
        while todo:
            folder, above = todo.pop()
            identity = self._identity(folder)
            if identity is None or identity in above:
                continue
            page: list[ObjectInfo] = []
            for entry in self._entries(folder):
                if not entry.path.startswith(prefix):
                    continue
                with self._errors(entry.path):
                    info = self._info_of_entry(entry)
                if info is None:
                    todo.append((entry.path, (*above, identity)))
                elif isinstance(info, str):
                    special.append(f"{self._root}{entry.path} is {info}")
                elif not _TEMPORARY.fullmatch(entry.name):
                    page.append(info)
                if len(page) == _PAGE:
                    yield page
                    page = []
            yield page
        if special:
            logger.warning("left out %d that are no files: %s", len(special), special[0])

    def _identity(self, folder: str) -> tuple[int, int] | None:
        """Return device and inode of a folder; None if there is no such folder, or not any more."""
        with self._errors(folder):
            try:
                status = os.stat(folder)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return (status.st_dev, status.st_ino) if st.S_ISDIR(status.st_mode) else None

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        with self._errors(folder):
            try:
                with os.scandir(folder) as entries:
                    yield from entries
            except FileNotFoundError:
                return  # deleted since it was listed

    def check_bucket(self, path: str, *, deadline_s: float) -> None:
        """A disk has no buckets."""

    def arrow_filesystem(self) -> pafs.FileSystem:
        return pafs.LocalFileSystem()

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        """Read a whole file; check that it did not change while it was read."""
        self._regular(path)
        # Without O_NONBLOCK, a pipe that took the file's name since would block for ever.
        with self._errors(path), open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            before = self._info(path, status)
            if etag is not None and before.etag != etag:
                raise ObjectChanged(
                    f"{before.uri}: its ETag is {before.etag}, but it was {etag} when it was listed"
                )
            if max_bytes is not None and status.st_size > max_bytes:
                raise ObjectTooLarge(
                    f"{before.uri}: has {before.size} bytes, more than the limit of {max_bytes}"
                )
            data = file.read()
            after = self._info(path, os.fstat(file.fileno()))
        if after.etag != before.etag or len(data) != after.size:
            raise ObjectChanged(f"{before.uri}: changed while it was read")
        return data

    def read_range(
        self, path: str, *, first: int, length: int, etag: str | None, deadline_s: float
    ) -> bytes:
        """Read a part of a file; check that the file did not change while it was read."""
        self._regular(path)
        with self._errors(path), open(path, "rb", opener=_open_without_waiting) as file:
            before = self._info(path, os.fstat(file.fileno()))
            data = os.pread(file.fileno(), length, first)
            after = self._info(path, os.fstat(file.fileno()))
        if etag not in (None, before.etag) or after.etag != before.etag:
            raise ObjectChanged(f"{before.uri}: its ETag is {after.etag}, but it was {etag}")
        if len(data) != length:
            raise ObjectUnreadable(f"{before.uri}: has no {length} bytes from byte {first} on")
        return data

    def write(self, path: str, data: bytes) -> None:
        """Replace the file in one step."""
        with self._errors(path), self._temporary_file(path, data) as temporary:
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
            with self._temporary_file(path, data) as temporary:
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return False
            return True

    def delete(self, path: str) -> None:
        """Delete the file if it exists."""
        with self._errors(path):
            Path(path).unlink(missing_ok=True)

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

    def age_s(self, path: str, *, deadline_s: float) -> float | None:
        """Return the age of a file by the clock of its file system, which may be another machine's."""
        with self._errors(path):
            with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
                now = os.fstat(file.fileno()).st_mtime
            return now - os.stat(path).st_mtime

    def upload(self, local: Path, path: str) -> None:
        """Copy a file of any size, and replace the target in one step."""
        with self._errors(path), local.open("rb") as source:
            with self._temporary_file(path, source) as temporary:
                os.replace(temporary, path)

    def download(self, path: str, local: Path, *, deadline_s: float) -> None:
        """Copy a file of any size to another path of this machine."""
        self._regular(path)
        with self._errors(path):
            shutil.copyfile(path, local)

    @contextmanager
    def _temporary_file(self, path: str, data: bytes | BinaryIO) -> Iterator[str]:
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

    def _regular(self, path: str) -> os.stat_result:
        """Return the status of a regular file. Anything else is refused, and never opened."""
        with self._errors(path):
            status = os.stat(path)
        if st.S_ISDIR(status.st_mode):
            raise NotAFile(f"{self._root}{path}", "is a folder")
        if not st.S_ISREG(status.st_mode):
            raise ObjectUnreadable(f"{self._root}{path}: is {_kind(status)}, not a regular file")
        return status

    def _info_of_entry(self, entry: os.DirEntry[str]) -> ObjectInfo | str | None:
        """Return the info of a file in a folder; None for a folder; the kind of a pipe or a device."""
        path = entry.path
        if entry.is_dir(follow_symlinks=False):
            return None
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise ObjectUnreadable(f"{self._root}{path!r}: its name is not UTF-8") from error
        try:
            status = entry.stat()
        except FileNotFoundError:
            # A broken link, or deleted since: it stays in the list, and reading it gives `missing`.
            return ObjectInfo(self._root + path, "", 0)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return ObjectInfo(self._root + path, "", 0)  # links that point to each other
        if st.S_ISDIR(status.st_mode):
            return None
        return self._info(path, status) if st.S_ISREG(status.st_mode) else _kind(status)

    def _info(self, path: str, status: os.stat_result) -> ObjectInfo:
        etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        return ObjectInfo(self._root + path, etag, status.st_size)

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        uri = self._root + path
        try:
            yield
        except IsADirectoryError as error:
            raise NotAFile(uri, "is a folder") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.islink(path):
                raise NotAFile(uri, f"is a broken link to {os.readlink(path)}") from error
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


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _kind(status: os.stat_result) -> str:
    """Name what is neither a file nor a folder."""
    kinds = {
        st.S_IFIFO: "a named pipe",
        st.S_IFSOCK: "a socket",
        st.S_IFCHR: "a device",
        st.S_IFBLK: "a device",
    }
    return kinds.get(st.S_IFMT(status.st_mode), "a special file")
