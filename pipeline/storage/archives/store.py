"""The store for chained URIs: it reads members of archives by name, and writes nothing.

A member is found by listing its archive, which a process does once and keeps for the last archives. So a few
members are cheap to open, wherever they are named: by the `Detector`, a report, or a labelled data set.
Scoring has a plan with the places of all members, and does not come here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import ObjectMissing, ObjectUnreadable, UserError
from pipeline.storage.access import OPEN, Access
from pipeline.storage.archives.index import Archive, index
from pipeline.storage.archives.kinds import archive_kind
from pipeline.storage.archives.limits import DEEPEST_LINK
from pipeline.storage.archives.problems import error_of
from pipeline.storage.archives.reading import read_member
from pipeline.storage.chains import split_chain
from pipeline.storage.objects import stat
from pipeline.storage.uris import ObjectInfo

_ARCHIVES_CACHED = 4
Members = dict[str, dict[str, Any]]


class ArchiveStore:
    """The store for ``tar://``, ``zip://`` and ``parquet://``. A path is ``NAME::ARCHIVE``."""

    lists_in_order = False
    denied_advice = unreachable_advice = "Check the archive, and the credentials for it"

    def __init__(self, scheme: str, root: str, access: Access) -> None:
        self._root, self._kind, self._access = root, scheme, access

    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo:
        """Return the size of a member, and the ETag of its archive."""
        row = self._member(path)
        return ObjectInfo(self._root + path, row["etag"], row["size_bytes"])

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Yield the members of an archive whose name begins with a prefix: ``PREFIX::ARCHIVE``."""
        name, archive = self._split(prefix)
        archive = archive.removesuffix("/")
        found = self._open(archive)
        yield [
            ObjectInfo(uri, row["etag"], row["size_bytes"])
            for uri, row in found.items()
            if (chain := split_chain(uri)) is not None and chain.name.startswith(name)
        ]

    def check_bucket(self, path: str, *, deadline_s: float) -> None:
        """`stat` raises ObjectMissing for a missing archive too."""

    def arrow_filesystem(self) -> pafs.FileSystem:
        raise self._read_only("")

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        """Read a member. `etag` is that of the archive; without it, each call asks for the present one."""
        row = self._member(path, etag)
        limit = max_bytes if max_bytes is not None else 2**62
        return read_member(row, max_bytes=limit, access=self._access)

    def write(self, path: str, data: bytes) -> None:
        raise self._read_only(path)

    def create(self, path: str, data: bytes) -> bool:
        raise self._read_only(path)

    def delete(self, path: str) -> None:
        raise self._read_only(path)

    def upload(self, local: Path, path: str) -> None:
        raise self._read_only(path)

    def download(self, path: str, local: Path, *, deadline_s: float) -> None:
        """Write a member into a file."""
        local.write_bytes(self.read(path, etag=None, max_bytes=None, deadline_s=deadline_s))

    def _read_only(self, path: str) -> UserError:
        return UserError(
            self._root + path, "lies in an archive, and nothing is written there", "Name a folder."
        )

    def _split(self, path: str) -> tuple[str, str]:
        chain = split_chain(self._root + path)
        if chain is None:
            raise ObjectMissing(
                f"{self._root}{path}: names no archive; expected {self._root}NAME::URI-OF-THE-ARCHIVE"
            )
        return chain.name, chain.archive

    def _open(self, archive: str, etag: str | None = None) -> Members:
        if archive_kind(archive) != self._kind:
            raise ObjectUnreadable(f"{self._root}…::{archive}: the archive is no .{self._kind}")
        if split_chain(archive) is not None:
            raise ObjectUnreadable(f"{archive}: an archive inside an archive is not read")
        if etag is not None:  # reads are conditional, so a changed archive is noticed there
            return _members(archive, etag, None, self._access)
        return list_archive(stat(archive, access=self._access), self._access)

    def _member(self, path: str, etag: str | None = None) -> dict[str, Any]:
        uri, (_, archive) = self._root + path, self._split(path)
        found = self._open(archive, etag)
        row = found.get(uri)
        for _ in range(DEEPEST_LINK):
            if row is None or row["target"] is None:
                break
            row = found.get(row["target"])
        if row is None or row["target"] is not None:
            damage = found.get(archive)
            cause = f": {damage['problem']}" if damage else ""
            raise ObjectMissing(f"{uri}: no such member in the archive{cause}")
        if row["problem"]:
            raise error_of(uri, row["problem"])
        return row


def list_archive(info: ObjectInfo, access: Access = OPEN) -> Members:
    """Return the members of an archive: URI -> row (MEMBERS). A damaged archive has a row with its URI.

    Raises:
        UserError: a tar that is compressed as a whole, or a Parquet file without a column of images.
        StorageError: it cannot be read.
    """
    return _members(info.uri, info.etag, info.size, access)


@lru_cache(maxsize=_ARCHIVES_CACHED)
def _members(archive: str, etag: str, size: int | None, access: Access) -> Members:
    """List an archive: URI -> row (MEMBERS). Of a double name, the last counts."""
    tables = list(index(Archive(uri=archive, etag=etag or None, size=size), access=access))
    return {row["image_uri"]: row for row in pa.concat_tables(tables).to_pylist()}
