"""Lists the members of archives, with their places: tars by their headers, zips by their central directories,
Parquet files by their row groups.

    index(archive) -> tables MEMBERS     of one archive
    index_all(archives)                  of many, several at once

A member that cannot be read because of what it is gets its `problem`. If an archive is damaged, the members
before the damage are listed, and one more row with the URI of the archive says where the damage is. The
memory does not grow with the number of members of a tar; a zip takes 16 bytes a member.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import ObjectUnreachable, StorageError, UserError
from pipeline.runtime.prefetch import merged
from pipeline.schema import MEMBERS
from pipeline.storage.access import OPEN, Access
from pipeline.storage.archives.kinds import ARCHIVE_SUFFIXES, archive_kind, compressed
from pipeline.storage.archives.parquet import Footer, read_footer
from pipeline.storage.archives.problems import DamagedArchiveError, undecodable, unlisted
from pipeline.storage.archives.tar import TarKind, iter_tar
from pipeline.storage.archives.window import Window
from pipeline.storage.archives.zip import METHODS, Regions, find_directory, iter_zip
from pipeline.storage.chains import Kind, escape_name
from pipeline.storage.objects import stat
from pipeline.storage.uris import ObjectInfo

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 10_000
_NAME_BYTES_AT_ONCE = 8 * 2**20
"""Bytes of the names of one table at most."""
ARCHIVES_AT_ONCE = 8
"""Archives that are indexed at the same time; each holds a window of the archive in memory."""
_TABLES_WAITING = 8
MOST_INT64 = 2**63 - 1
"""The largest size in a table. A zip may state a larger one."""
_NESTED = undecodable("the member is an archive inside an archive")
_NOT_READ = {
    TarKind.SPARSE: undecodable("the member is a sparse file"),
    TarKind.CONTINUED: undecodable("the member is the rest of a file that began in another volume"),
}
_NESTED_SUFFIXES = tuple(suffix.encode() for suffix in ARCHIVE_SUFFIXES)
PARQUET_PREFIX = "row group "
"""Compression of a row of a Parquet file: ``row group 3 of image``, where `image` is the column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """An archive to index."""

    uri: str
    etag: str | None
    """None: not known yet."""
    size: int | None


class _Rows:
    """Collects the rows of one archive into tables."""

    def __init__(self, archive: Archive, kind: Kind) -> None:
        self._archive = archive
        self._start, self._end = f"{kind}://", f"::{archive.uri}"
        self._rows: list[tuple[Any, ...]] = []
        self._position = self._name_bytes = 0

    def add(
        self,
        name: str,
        size: int | None,
        offset: int | None,
        length: int | None,
        compression: str | None = None,
        problem: str | None = None,
        target: str | None = None,
        hard: bool | None = None,
    ) -> pa.Table | None:
        """Add a member; return a table when there are enough."""
        self._position += 1
        self._name_bytes += len(name)
        uri = self._start + name + self._end
        place = (offset, length, compression, problem, self._position)
        link = None if target is None else self._start + target + self._end
        self._rows.append((uri, size, *place, link, hard))
        is_enough = len(self._rows) == ROWS_AT_ONCE or self._name_bytes > _NAME_BYTES_AT_ONCE
        return self.table() if is_enough else None

    def damage(self, error: DamagedArchiveError) -> None:
        """Add the row that says where the archive is damaged."""
        self._rows.append(
            (self._archive.uri, self._archive.size, *[None] * 3, error.problem, 0, None, None)
        )

    def table(self) -> pa.Table:
        """Return the rows since the last table."""
        rows, self._rows, self._name_bytes = self._rows, [], 0
        columns = list(zip(*rows, strict=True)) or [()] * (len(MEMBERS) - 1)
        etags = pa.repeat(pa.scalar(self._archive.etag, pa.string()), len(rows))
        arrays = [columns[0], etags, *columns[1:]]
        return pa.table(
            [pa.array(values, field.type) for values, field in zip(arrays, MEMBERS, strict=True)],
            schema=MEMBERS,
        )


def index(
    archive: Archive, *, image_column: str | None = None, access: Access = OPEN
) -> Iterator[pa.Table]:
    """Yield the members of one archive, as tables MEMBERS.

    Args:
        archive: the archive. Its suffix tells its kind.
        image_column: the column of a Parquet file with the images; None: the only one that can hold images.
        access: what may be read.

    Raises:
        UserError: a tar that is compressed as a whole, or a Parquet file without such a column.
        StorageError: a part of the archive cannot be read, or it has another ETag.
    """
    kind = archive_kind(archive.uri)
    if kind == "compressed":
        raise compressed(archive.uri)
    assert kind is not None
    if archive.etag is None or archive.size is None:
        info = stat(archive.uri, access=access)
        archive = Archive(uri=info.uri, etag=archive.etag or info.etag, size=info.size)
        if archive.size is None:
            raise UserError(archive.uri, "the server does not state its size", "Copy the archive.")
    window = Window(archive.uri, size=archive.size, etag=archive.etag, access=access)
    rows = _Rows(archive, kind)
    try:
        if kind == "tar":
            yield from _tar(window, rows)
        elif kind == "zip":
            yield from _zip(window, rows)
        else:
            yield from _parquet(read_footer(window, image_column), rows, archive.uri, image_column)
    except DamagedArchiveError as error:
        rows.damage(error)
    yield rows.table()


def _is_nested(name: bytes) -> bool:
    return name.lower().endswith(_NESTED_SUFFIXES)


def _tar(window: Window, rows: _Rows) -> Iterator[pa.Table]:
    for kind, raw, offset, size, target in iter_tar(window):
        name = escape_name(raw)
        if kind is TarKind.FILE:
            problem = _NESTED if _is_nested(raw) else None
            table = rows.add(name, size, offset, size, None, problem)
        elif kind in _NOT_READ:
            table = rows.add(name, size, offset, 0, None, _NOT_READ[kind])
        else:
            hard = kind is TarKind.HARD_LINK
            table = rows.add(name, None, None, None, target=escape_name(target), hard=hard)
        if table is not None:
            yield table


def _zip(window: Window, rows: _Rows) -> Iterator[pa.Table]:
    directory = find_directory(window)
    # The directory is read twice, because the place of a member ends where the next one begins. So only
    # numbers are kept meanwhile, and no names.
    regions = Regions(directory)
    with suppress(DamagedArchiveError):  # the second time raises it
        for member in iter_zip(window, directory):
            regions.add(member)
    for member, length in zip(iter_zip(window, directory), regions.lengths(), strict=True):
        problem = member.problem
        if length == 0:
            problem = undecodable("the member overlaps another one, or lies outside of the archive")
        elif _is_nested(member.name):
            problem = _NESTED
        table = rows.add(
            escape_name(member.name),
            min(member.size, MOST_INT64),
            member.offset if length else None,
            int(length),
            member.compression if member.compression in METHODS.values() else None,
            problem,
        )
        if table is not None:
            yield table


def _parquet(footer: Footer, rows: _Rows, uri: str, image_column: str | None) -> Iterator[pa.Table]:
    check_column(footer, uri, image_column)
    row = 0
    for number, group in enumerate(footer.groups):
        compression = f"{PARQUET_PREFIX}{number} of {footer.column}"
        for _ in range(group.rows):
            table = rows.add(str(row), None, group.offset, group.length, compression, group.problem)
            row += 1
            if table is not None:
                yield table


def check_column(footer: Footer, uri: str, image_column: str | None) -> None:
    """Raise UserError if a Parquet file has no column with images, or several and none was named."""
    with_images = [column.name for column in footer.columns if column.images]
    if footer.column in with_images:
        return
    names = ", ".join(f"{column.name} ({column.type})" for column in footer.columns[:20])
    wanted = "bytes, or a struct with bytes and path"
    if image_column is not None:
        why = f"has no column {image_column!r} of {wanted}"
    else:
        why = f"has {len(with_images)} columns of {wanted}, and no column of URIs"
    raise UserError(uri, f"{why}. Its columns: {names}", "Name the column with --image-column.")


def index_all(
    archives: Iterable[Archive], call: Callable[[Archive], Iterator[pa.Table]]
) -> Iterator[pa.Table]:
    """Yield call(archive) of many archives, several at once, in any order.

    Exceptions are raised here; those that still run are stopped.
    """
    todo, lock = iter(archives), threading.Lock()

    def take() -> Archive | None:
        with lock:
            return next(todo, None)

    def work(put: Callable[[pa.Table], None]) -> None:
        while (archive := take()) is not None:
            for table in call(archive):
                if table.num_rows:
                    put(table)

    yield from merged(work, threads=ARCHIVES_AT_ONCE, waiting=_TABLES_WAITING)


def index_or_row(
    archive: Archive, *, image_column: str | None = None, access: Access = OPEN
) -> Iterator[pa.Table]:
    """Yield `index(archive)`; if it cannot be read, one row for it, with the cause.

    Its members are planned when the same command can list them. This row stays.

    Raises:
        UserError: as in `index`.
        ObjectUnreachable: no answer; the same command may continue later.
    """
    try:
        yield from index(archive, image_column=image_column, access=access)
    except ObjectUnreachable:
        raise
    except StorageError as error:
        logger.warning("the archive cannot be listed: %s", error)
        row: dict[str, Any] = {
            "image_uri": archive.uri,
            "etag": archive.etag,
            "size_bytes": archive.size,
        }
        row |= {"position": 0, "problem": unlisted(error)}
        yield pa.Table.from_pylist([row], schema=MEMBERS)


def archive_of(info: ObjectInfo) -> Archive:
    """Return the archive that an object is."""
    return Archive(uri=info.uri, etag=info.etag or None, size=info.size if info.etag else None)
