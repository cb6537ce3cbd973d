"""Reads members of archives at places that the plan names, and neighbours with one request.

    Neighbours(rows)     groups the rows of a task into spans; `read` gives one member, and reads a span once

A span is a part of one archive. Members whose places are close to each other share one, up to `SPAN_BYTES`.
All rows of a row group of a Parquet file share one. The bytes of a span stay in memory until each of its
members was taken.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.errors import (
    MemberUndecodable,
    ObjectChanged,
    ObjectTooLarge,
    ObjectUnreadable,
    one_line,
)
from pipeline.runtime.shared import Shared
from pipeline.storage.access import OPEN, Access
from pipeline.storage.archives import zip as zips
from pipeline.storage.archives.index import PARQUET_PREFIX
from pipeline.storage.archives.parquet import Footer, ParquetError, read_footer, read_rows
from pipeline.storage.archives.parquet_child import NULL, OVERSIZED
from pipeline.storage.archives.problems import DamagedArchiveError, error_of
from pipeline.storage.archives.window import Window
from pipeline.storage.chains import Chain, member_name, split_chain
from pipeline.storage.objects import read_range, stat

SPAN_BYTES = 32 * 2**20
"""Bytes of one request for neighbours at most; one larger member is one request."""
MOST_GAP = 2**20
"""Bytes between two neighbours that are read and thrown away rather than asked around."""
_GROUP = re.compile(PARQUET_PREFIX + r"(\d+) of (.*)", re.DOTALL)
_FOOTERS_KEPT = 4

Row = Mapping[str, Any]
"""A row of a plan (PLAN) with a place."""


@dataclass
class _Span:
    """A part of an archive, and the members in it."""

    archive: str
    etag: str | None
    first: int
    length: int
    rows: list[Row] = field(default_factory=list)
    parquet: bool = False


def is_placed(row: Row) -> bool:
    """Whether the plan says where the image lies in an archive, or why it cannot be read."""
    return row["offset"] is not None or row["problem"] is not None


class Neighbours:
    """Reads the members of archives among some rows. Any thread may call `read`.

    Args:
        rows: rows of a plan, in its order. Those without a place are ignored.
        max_bytes: larger members are not read.
        access: what may be read.
    """

    def __init__(self, rows: Sequence[Row], *, max_bytes: int, access: Access = OPEN) -> None:
        self._max_bytes, self._access = max_bytes, access
        self._spans: dict[str, _Span] = {}
        self._left: dict[int, int] = {}
        self._read: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        for span in spans(rows, max_bytes):
            self._left[id(span)] = len(span.rows)
            self._spans.update((row["image_uri"], span) for row in span.rows)

    def read(self, row: Row) -> bytes:
        """Return the bytes of a member.

        The first caller of a span reads it; the others wait for it. If that fails, each of its members fails.

        Raises:
            StorageError: the member cannot be read; `status` says why.
        """
        span = self._spans.get(row["image_uri"])
        if span is None:  # it has a problem, or it is read again
            return read_member(row, max_bytes=self._max_bytes, access=self._access)
        key = id(span)
        with self._lock:
            future = self._read.get(key)
            first = future is None
            if future is None:
                future = self._read[key] = Future()
        if first:
            try:
                future.set_result(_load(span, self._max_bytes, self._access))
            except BaseException as error:  # noqa: B036 - is raised for each member
                future.set_exception(error)
        try:
            return _take(span, future.result(), row)
        finally:
            with self._lock:
                self._left[key] -= 1
                self._spans.pop(row["image_uri"], None)
                if not self._left[key]:
                    self._read.pop(key, None)


def spans(rows: Sequence[Row], max_bytes: int) -> list[_Span]:
    """Group rows with a place into spans. Rows that are not read have none."""
    found: list[_Span] = []
    for row in rows:
        size = row["size_bytes"]
        if row["offset"] is None or row["problem"] or (size is not None and size > max_bytes):
            continue
        chain = split_chain(row["image_uri"])
        if chain is None:
            continue
        first, length = row["offset"], row["length"]
        last = found[-1] if found else None
        same = last is not None and (last.archive, last.etag) == (chain.archive, row["etag"])
        if last is not None and same and _fits(last, first, length, chain.kind == "parquet"):
            last.length = max(last.first + last.length, first + length) - last.first
            last.rows.append(row)
            continue
        span = _Span(chain.archive, row["etag"], first, length, [row], chain.kind == "parquet")
        found.append(span)
    return found


def _fits(span: _Span, first: int, length: int, parquet: bool) -> bool:
    """Whether a member may join the span before it."""
    if parquet:
        return first == span.first
    end = span.first + span.length
    return (
        span.first <= first <= end + MOST_GAP
        and max(end, first + length) - span.first <= SPAN_BYTES
    )


def read_member(row: Row, *, max_bytes: int, access: Access = OPEN) -> bytes:
    """Read one member at its place. Raises `StorageError`."""
    if row["problem"]:
        raise error_of(row["image_uri"], row["problem"])
    alone = spans([row], max_bytes)
    if not alone:
        raise ObjectTooLarge(
            f"{row['image_uri']}: has {row['size_bytes']} bytes, more than the limit of {max_bytes}"
        )
    return _take(alone[0], _load(alone[0], max_bytes, access), row)


def _load(span: _Span, max_bytes: int, access: Access) -> Any:
    """Read a span: its bytes, or the images of a row group by URI."""
    if span.parquet:
        return _load_rows(span, max_bytes, access)
    return read_range(
        span.archive, first=span.first, length=span.length, etag=span.etag, access=access
    )


def _take(span: _Span, loaded: Any, row: Row) -> bytes:
    """Cut one member out of a span, and unpack it."""
    uri = row["image_uri"]
    if span.parquet:
        return _row_bytes(uri, loaded[uri])
    begin = row["offset"] - span.first
    data: bytes = loaded[begin : begin + row["length"]]
    if row["compression"] is None:
        return data
    try:
        return zips.unpack(data, _name(uri), row["size_bytes"], row["compression"])
    except ValueError as error:
        raise MemberUndecodable(f"{uri}: {one_line(error)}") from error


def _name(uri: str) -> bytes:
    chain = split_chain(uri)
    assert chain is not None
    return member_name(chain.name)


def _row_bytes(uri: str, value: bytes | int) -> bytes:
    if value == NULL:
        raise MemberUndecodable(f"{uri}: the row has no bytes (null)")
    if value == OVERSIZED:
        raise ObjectTooLarge(f"{uri}: has more bytes than the limit (--max-bytes)")
    assert isinstance(value, bytes)
    return value


def _load_rows(span: _Span, max_bytes: int, access: Access) -> dict[str, bytes | int]:
    """Read the wanted images of one row group."""
    match = _GROUP.fullmatch(span.rows[0]["compression"])
    assert match is not None
    number = int(match[1])
    try:
        footer, size = _footer(span.archive, span.etag, match[2], access)
        start = sum(group.rows for group in footer.groups[:number])
        group = footer.groups[number]
        uris = [row["image_uri"] for row in span.rows]
        rows = [row_number(split_chain(uri)) - start for uri in uris]
        pages = read_range(
            span.archive, first=group.offset, length=group.length, etag=span.etag, access=access
        )
        values = read_rows(footer, number, pages, rows, size=size, max_bytes=max_bytes)
    except (ParquetError, DamagedArchiveError, IndexError) as error:
        cause = error.cause if isinstance(error, DamagedArchiveError) else one_line(error)
        raise MemberUndecodable(f"{span.archive}, row group {number}: {cause}") from error
    return dict(zip(uris, values, strict=True))


def row_number(chain: Chain | None) -> int:
    """Return the row that a chained URI of a Parquet file names; -1 if it is no number."""
    return int(chain.name) if chain is not None and re.fullmatch(r"\d{1,18}", chain.name) else -1


_footers: Shared[tuple[str, str | None, str, Access], tuple[Footer, int]] = Shared(_FOOTERS_KEPT)


def _footer(uri: str, etag: str | None, column: str, access: Access) -> tuple[Footer, int]:
    """Return the footer of a file and the size of the file. Its row groups are those of several tasks."""
    read = partial(_read_footer, uri, etag, column, access)
    return _footers.get((uri, etag, column, access), read)


def _read_footer(uri: str, etag: str | None, column: str, access: Access) -> tuple[Footer, int]:
    info = stat(uri, access=access)
    if etag not in (None, info.etag):
        raise ObjectChanged(f"{uri}: its ETag is {info.etag}, but it was {etag} when it was listed")
    if info.size is None:
        raise ObjectUnreadable(f"{uri}: the server does not state its size")
    window = Window(uri, size=info.size, etag=info.etag, access=access)
    return read_footer(window, column), info.size
