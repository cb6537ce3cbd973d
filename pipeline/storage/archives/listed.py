"""The members of one archive, listed once a process and kept for the archives that were used last.

A process can give its lists to others: a training lists each archive once, not once a worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.runtime.shared import Shared
from pipeline.storage.access import OPEN, Access
from pipeline.storage.archives.index import Archive, index
from pipeline.storage.archives.limits import DEEPEST_LINK
from pipeline.storage.chains import split_chain
from pipeline.storage.uris import ObjectInfo

MEMBERS_KEPT = 2_000_000
"""Members in memory, about 300 bytes each. Of an archive with more, all are kept while it is used."""
Row = Mapping[str, Any]
"""A row of MEMBERS."""


class ListedArchive(Mapping[str, Row]):
    """URI -> member. Of a double name, the last counts. A damaged archive has a row with its URI.

    Args:
        tables: the members (MEMBERS), in the order of the archive.
        etag: that of the archive; empty if the store gives none.
    """

    def __init__(self, tables: pa.Table, etag: str) -> None:
        self.rows, self.etag = tables, etag
        self._places: dict[str, int] = {}
        """URI -> number of the row; of a hard link to a file before it, that of the file."""
        columns = (tables[name].to_pylist() for name in ("image_uri", "target", "hard"))
        self._targets: dict[int, str] = {}
        for number, (uri, target, hard) in enumerate(zip(*columns, strict=True)):
            if target is not None:
                linked = self._places.get(target)
                if hard and linked is not None and linked not in self._targets:
                    number = linked
                else:
                    self._targets[number] = target
            self._places[uri] = number

    def __getitem__(self, uri: str) -> Row:
        row: Row = self.rows.slice(self._places[uri], 1).to_pylist()[0]
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def described(self) -> Iterator[tuple[str, int | None, str | None]]:
        """Yield URI, size and problem of each member. A symbolic link has no size."""
        sizes, problems = (self.rows[name].to_pylist() for name in ("size_bytes", "problem"))
        for uri, number in self._places.items():
            yield uri, sizes[number], problems[number]

    def file(self, uri: str) -> Row | None:
        """Return the row of a file, also if the URI names a link to it. None: there is no such file."""
        for _ in range(DEEPEST_LINK + 1):
            number = self._places.get(uri)
            if number is None:
                return None
            if number not in self._targets:
                return self[uri]
            uri = self._targets[number]
        return None


_Key = tuple[str, str, int | None, Access]
_listed: Shared[_Key, ListedArchive] = Shared(MEMBERS_KEPT, len)
_etags: dict[tuple[str, Access], str] = {}
"""The ETag that an archive had when it was listed last."""


def list_archive(info: ObjectInfo, access: Access = OPEN) -> ListedArchive:
    """Return the members of an archive. Its ETag says whether it was listed before.

    Raises:
        UserError: a tar that is compressed as a whole, or a Parquet file without a column of images.
        StorageError: it cannot be read, or has another ETag.
    """
    # A web server may give no ETag. Then the size must do.
    size = None if info.etag else info.size
    found = _listed.get((info.uri, info.etag, size, access), partial(_list, info, access))
    if info.etag:
        _etags[info.uri, access] = info.etag
    return found


def known_archive(uri: str, access: Access = OPEN) -> ListedArchive | None:
    """Return the members of an archive as they were when it was listed last. None: it was not listed.

    Raises:
        StorageError: it is listed again, and cannot be read, or has another ETag.
    """
    etag = _etags.get((uri, access))
    return None if etag is None else list_archive(ObjectInfo(uri, etag, None), access)


class Listing(NamedTuple):
    """The list of an archive, for another process."""

    archive: ObjectInfo
    members: pa.Table
    """MEMBERS."""


def listings_of(uris: Iterable[str], access: Access = OPEN) -> list[Listing]:
    """Give the lists of the archives that hold these images, as far as this process keeps them.

    They have `MEMBERS_KEPT` members at most: another process would keep no more. It lists the others itself.
    """
    chains = (split_chain(uri) for uri in uris)
    archives = dict.fromkeys(chain.archive for chain in chains if chain is not None)
    listings, members = [], 0
    for uri in archives:
        etag = _etags.get((uri, access))
        found = None if etag is None else _listed.peek((uri, etag, None, access))
        if found is not None and members + len(found) <= MEMBERS_KEPT:
            members += len(found)
            listings.append(Listing(ObjectInfo(uri, found.etag, None), found.rows))
    return listings


def remember(listings: Iterable[Listing], access: Access = OPEN) -> None:
    """Take the lists of another process. An archive that has changed is listed again when it is read."""
    for archive, members in listings:
        key = archive.uri, archive.etag, None, access
        _listed.get(key, partial(ListedArchive, members, archive.etag))
        _etags[archive.uri, access] = archive.etag


def _list(info: ObjectInfo, access: Access) -> ListedArchive:
    archive = Archive(uri=info.uri, etag=info.etag or None, size=info.size)
    rows = pa.concat_tables(index(archive, access=access)).combine_chunks()
    return ListedArchive(rows, info.etag)
