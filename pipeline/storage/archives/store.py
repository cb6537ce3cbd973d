"""The store for chained URIs: it reads members of archives by name, and writes nothing.

A member is found by listing its archive (`pipeline.storage.archives.listed`), which a process does once. So a
few members are cheap to open, wherever they are named: by the `Detector`, a report, or a labelled data set.
Scoring has a plan with the places of all members, and does not come here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.fs as pafs

from pipeline.errors import ObjectChanged, ObjectMissing, ObjectUnreadable, UserError
from pipeline.storage.access import Access
from pipeline.storage.archives.kinds import archive_kind
from pipeline.storage.archives.listed import ListedArchive, Row, known_archive, list_archive
from pipeline.storage.archives.problems import error_of
from pipeline.storage.archives.reading import read_member
from pipeline.storage.chains import split_chain
from pipeline.storage.objects import stat
from pipeline.storage.uris import ObjectInfo


class ArchiveStore:
    """The store for ``tar://``, ``zip://`` and ``parquet://``. A path is ``NAME::ARCHIVE``."""

    lists_in_order = False
    denied_advice = unreachable_advice = "Check the archive, and the credentials for it"

    def __init__(self, scheme: str, root: str, access: Access) -> None:
        self._root, self._kind, self._access = root, scheme, access

    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo:
        """Return the size of a member, and the ETag of its archive."""
        row = self._member(self._open(path), path)
        return ObjectInfo(self._root + path, row["etag"], row["size_bytes"])

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        """Yield the members of an archive whose name begins with a prefix: ``PREFIX::ARCHIVE``."""
        name, _ = self._split(prefix)
        found = self._open(prefix.removesuffix("/"))
        yield [
            ObjectInfo(uri, found.etag, size)
            for uri, size, _ in found.described()
            if (chain := split_chain(uri)) is not None and chain.name.startswith(name)
        ]

    def check_bucket(self, path: str, *, deadline_s: float) -> None:
        """`stat` raises ObjectMissing for a missing archive too."""

    def arrow_filesystem(self) -> pafs.FileSystem:
        raise self._read_only("")

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        """Read a member. `etag` is that of the archive."""
        limit = max_bytes if max_bytes is not None else 2**62
        if etag is None:
            # Reads are conditional, so one request is enough if the archive is as it was.
            with suppress(ObjectChanged, ObjectMissing):
                known = known_archive(self._archive(path), self._access)
                if known is not None and self._root + path in known:
                    row = self._member(known, path)
                    return read_member(row, max_bytes=limit, access=self._access)
        row = self._member(self._open(path, etag), path)
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

    def _archive(self, path: str) -> str:
        """Return the URI of the archive of a member, if it can be opened."""
        _, archive = self._split(path)
        if archive_kind(archive) != self._kind:
            raise ObjectUnreadable(f"{self._root}…::{archive}: the archive is no .{self._kind}")
        if split_chain(archive) is not None:
            raise ObjectUnreadable(f"{archive}: an archive inside an archive is not read")
        return archive

    def _open(self, path: str, etag: str | None = None) -> ListedArchive:
        """List the archive of a member, as it is now, or as it was with an ETag."""
        archive = self._archive(path)
        if etag is not None:  # reads are conditional, so a changed archive is noticed there
            return list_archive(ObjectInfo(archive, etag, None), self._access)
        return list_archive(stat(archive, access=self._access), self._access)

    def _member(self, found: ListedArchive, path: str) -> Row:
        uri, (_, archive) = self._root + path, self._split(path)
        row = found.file(uri)
        if row is None:
            damage = found.get(archive)
            cause = f": {damage['problem']}" if damage else ""
            raise ObjectMissing(f"{uri}: no such member in the archive{cause}")
        if row["problem"]:
            raise error_of(uri, row["problem"])
        return row
