"""Finds the columns of a list by their names, and reads URI, ETag and size from a row.

Case does not matter, nor do spaces around a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError

URI_COLUMNS = ("image_uri", "uri", "url", "path", "file_name")
"""Names of the column with the URIs. If a list has several, the first of this order counts."""
_BUCKET, _KEY = "bucket", "key"
_ETAGS = ("etag", "e_tag")
_SIZES = ("size_bytes", "size")
_NULLS = ("", "nan", "none", "null", "<na>")
"""What programs write for "not known"."""
_MOST_SIZE = 2**63 - 1

Entry = tuple[int, str, str | None, int | None]
"""Line or row, URI as it is written (empty: none), ETag, size in bytes."""
Wrong = Callable[[int, str, str], UserError]
"""Makes the error of a line: (place, why, advice)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The places of the columns in a row."""

    uri: int
    """The URI, or the key if there is a bucket."""
    width: int
    """Cells of a whole row."""
    bucket: int | None = None
    etag: int | None = None
    size: int | None = None

    @property
    def uri_parts(self) -> list[int]:
        """The places of what makes the URI."""
        return [self.uri] if self.bucket is None else [self.bucket, self.uri]

    @property
    def indices(self) -> list[int]:
        """The places of all columns that are read."""
        return [*self.uri_parts, *(i for i in (self.etag, self.size) if i is not None)]

    def narrowed(self) -> Columns:
        """Return the places in a row that has only the columns of `indices`, in their order."""
        place = {index: position for position, index in enumerate(self.indices)}
        return Columns(
            uri=place[self.uri],
            width=len(place),
            bucket=None if self.bucket is None else place[self.bucket],
            etag=None if self.etag is None else place[self.etag],
            size=None if self.size is None else place[self.size],
        )

    def entry(self, row: Sequence[Any], place: int, wrong: Wrong) -> Entry:
        """Read one row.

        Args:
            row: the cells.
            place: the line or row, for messages.
            wrong: makes the error for a row that cannot be read.
        """
        if len(row) != self.width and any(cell.strip() for cell in row[self.width :] or row):
            raise wrong(
                place,
                f"has {len(row)} cells, expected {self.width}",
                "Write as many cells as the header has; put a cell with a delimiter in quotes.",
            )
        if len(row) < self.width:
            return place, "", None, None  # a line of blanks
        uri = _text(row[self.uri], place, wrong)
        if self.bucket is not None and uri:
            bucket = _text(row[self.bucket], place, wrong)
            if not bucket:
                raise wrong(place, f"has the key {uri!r} without a bucket", "Name the bucket.")
            uri = f"s3://{bucket}/{uri}"
        etag = None if self.etag is None else _etag(row[self.etag])
        size = None if self.size is None else _size(row[self.size], place, wrong)
        return place, uri, etag, size


def find_columns(header: Sequence[str], uri_column: str | None) -> Columns | None:
    """Find the columns by the header of a list; None if no column has the URIs.

    Args:
        header: the names.
        uri_column: the name of the column with the URIs, or None for the known names.
    """
    exact = [name.strip() for name in header]
    names = [name.lower() for name in exact]

    def place(*wanted: str) -> int | None:
        return next((names.index(name) for name in wanted if name in names), None)

    bucket = None
    if uri_column is not None:
        uri = exact.index(uri_column) if uri_column in exact else place(uri_column.lower())
    else:
        uri = place(*URI_COLUMNS)
        if uri is None and _BUCKET in names:
            uri, bucket = place(_KEY), place(_BUCKET)
    if uri is None:
        return None
    return Columns(
        uri=uri, width=len(names), bucket=bucket, etag=place(*_ETAGS), size=place(*_SIZES)
    )


def repeated_column(header: Sequence[str], columns: Columns, uri_column: str | None) -> str | None:
    """Return the name of a column that is read and occurs twice; None if there is none.

    A name that differs only in case is the same, unless --uri-column spells it as it is.
    """
    exact = [name.strip() for name in header]
    names = [name.lower() for name in exact]
    if len(set(names)) == len(names):
        return None
    for index in columns.indices:
        chosen = index == columns.uri and exact[index] == uri_column
        among = exact if chosen else names
        if among.count(among[index]) > 1:
            return exact[index]
    return None


def _text(value: Any, place: int, wrong: Wrong) -> str:
    """Read the text of a URI; empty if there is none."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise wrong(
                place, f"has {value!r} for the URI, which is not UTF-8", "Write URIs as strings."
            ) from error
    if not isinstance(value, str):
        raise wrong(place, f"has {value!r} for the URI", "Expected a text.")
    return "" if value.isspace() else value


def _etag(value: Any) -> str | None:
    """Read an ETag. Listings and tools write it in quotes; in an S3 answer they are ``&quot;``."""
    if value is None or isinstance(value, float):
        return None
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    text = str(value).strip().replace("&quot;", '"').strip("\"'")
    return None if text.lower() in _NULLS else text


def _size(value: Any, place: int, wrong: Wrong) -> int | None:
    """Read a size. Programs whose integers cannot be null write it as ``10.0``."""
    text = "" if value is None else str(value).strip()
    if text.lower() in _NULLS:
        return None
    try:
        size = int(text) if text.isdecimal() else float(text)
    except ValueError:
        size = math.nan
    if not (0 <= size <= _MOST_SIZE and size == int(size)):
        raise wrong(
            place,
            f"has {text[:40]!r} for size_bytes",
            "Expected a number of bytes. Rename the column if it has something else.",
        )
    return int(size)
