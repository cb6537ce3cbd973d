"""Reads the files of lists: text, CSV, TSV, JSON lines, Parquet, and manifests of S3 Batch Operations.

Each reader yields entries: the place in the file, the URI as it is written, ETag and size. `lists` makes the
URIs absolute. A file is read once, from the front, so its length does not matter.
"""

from __future__ import annotations

import csv
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.score import ListFormat
from pipeline.errors import UserError
from pipeline.storage.access import OPEN, Access
from pipeline.storage.list_columns import Columns, Entry, find_columns, repeated_column
from pipeline.storage.list_texts import first_line_that_is_not_utf8, open_text
from pipeline.storage.uris import parse, without_query

Reader = Callable[[Path, "Source"], Iterator[Entry]]

ROWS_AT_ONCE = 50_000
"""Rows of one table. A list of any length takes the memory of one table."""
GZIP = ".gz"
_TEXTS = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")
LIST_SUFFIXES = (*_TEXTS, *(suffix + GZIP for suffix in _TEXTS), ".parquet")
_DELIMITERS = (",", ";", "\t")
_HINT = (
    "Expected a column image_uri, uri, url, path or file_name, or bucket and key. "
    "Name another with --uri-column."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOptions:
    """How to read lists."""

    uri_column: str | None = None
    """The column with the URIs. None: the first of `list_columns.URI_COLUMNS` that the list has."""
    format: ListFormat = "auto"
    """s3-batch: bucket, key and perhaps a version on each line, no header. auto: by the suffix."""
    root: str | None = None
    """The URI that relative entries are relative to. None: the folder of the list."""
    access: Access = OPEN
    """What the entries may name."""
    image_suffixes: tuple[str, ...] = ()
    """In lower case. A first line that ends in one is an entry, not a header."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a list, for its reader."""

    uri: str
    options: ListOptions

    @property
    def delimiters(self) -> tuple[str, ...]:
        """The delimiters that the file may have, the likeliest first."""
        return _DELIMITERS[::-1] if suffix_of(self.uri) == ".tsv" else _DELIMITERS

    def wrong(self, place: int, why: str, advice: str) -> UserError:
        """Return the error to raise for a line or a row."""
        word = "row" if suffix_of(self.uri) == ".parquet" else "line"
        return UserError(f"{self.uri}, {word} {place}", why, advice)

    def looks_like_an_entry(self, text: str) -> bool:
        """Whether the first line is an entry, not the name of a column."""
        return "/" in text or text.lower().endswith(self.options.image_suffixes or ("://",))


def suffix_of(uri: str) -> str:
    """Return the suffix that tells the format: ``a/b.CSV.gz`` gives ``.csv``."""
    return Path(without_query(uri).lower().removesuffix(GZIP)).suffix


def iter_entries(path: Path, source: Source) -> Iterator[Entry]:
    """Yield the entries of one file.

    Args:
        path: the file, or a local copy of it.
        source: its URI, which names the format, and the options.

    Raises:
        UserError: the file is not of this kind, has no known column, or a row that cannot be read.
    """
    read = _READERS.get(suffix_of(source.uri), _read_text)
    if source.options.format == "s3-batch":
        read = _read_s3_batch
    try:
        yield from read(path, source)
    except UnicodeDecodeError as error:
        place = first_line_that_is_not_utf8(path)
        byte = error.object[error.start]
        raise source.wrong(
            place, f"is not a readable list of images (byte 0x{byte:02x})", "Save it as UTF-8."
        ) from error
    except PermissionError as error:
        raise UserError(
            source.uri, "access is denied", f"Check the permissions ({error})."
        ) from error
    except (pa.ArrowException, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the machine; pyarrow and gzip set no number for a damaged file
        raise UserError(
            source.uri, f"is not a readable list of images ({error})", "Write it again."
        ) from error


def _read_text(path: Path, source: Source) -> Iterator[Entry]:
    """One URI a line, byte for byte. A text with the header of a table is read as a table."""
    with open_text(path, source.uri, "\n") as lines:
        is_first = True
        for place, line in enumerate(lines, 1):
            # Only line ends are removed: a key may end in a space, and may hold U+2028.
            entry = line.removesuffix("\n").rstrip("\r")
            if not entry.strip() or _is_comment(entry, source):
                continue
            if is_first:
                is_first = False
                if "\r" in entry:
                    raise source.wrong(place, "has line ends of the kind CR", "Save it with LF.")
                if _delimiter(entry, source) or source.options.uri_column:
                    yield from _rows_below(entry, lines, place, source)
                    return
            yield place, entry, None, None


def _read_table(path: Path, source: Source) -> Iterator[Entry]:
    with open_text(path, source.uri, "") as lines:
        for place, line in enumerate(lines, 1):
            if line.strip() and not _is_comment(line.rstrip("\r\n"), source):
                yield from _rows_below(line, lines, place, source)
                return


def _is_comment(line: str, source: Source) -> bool:
    """Whether a line is a comment: it begins with # and does not end as the name of an image."""
    return line.startswith("#") and not (
        line[1:2].strip() and line.lower().endswith(source.options.image_suffixes or ("://",))
    )


def _delimiter(line: str, source: Source) -> str | None:
    """Return the delimiter with which a line is a header that names the URIs; None: it is no such header."""
    headers = {delimiter: _cells(line, delimiter) for delimiter in source.delimiters}
    fitting = [
        delimiter
        for delimiter, header in headers.items()
        if find_columns(header, source.options.uri_column) is not None
    ]
    return max(fitting, key=lambda delimiter: len(headers[delimiter]), default=None)


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _rows_below(first: str, rest: Iterator[str], place: int, source: Source) -> Iterator[Entry]:
    """Yield the rows of a table whose header, or whose first row if it has none, is the line `first`."""
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # Excel writes it
        first, place = next(rest, ""), place + 1
    delimiter = _delimiter(first, source)
    table = csv.reader(
        itertools.chain([first], rest),
        delimiter=delimiter or source.delimiters[0],
        skipinitialspace=True,
        strict=True,  # else a quote that is not closed swallows the following rows
    )
    if delimiter is None:
        most = source.delimiters[:1] if source.delimiters[0] == "\t" else _DELIMITERS
        widest = max((_cells(first, delimiter) for delimiter in most), key=len)
        one_column = len(widest) == 1 and source.looks_like_an_entry(widest[0])
        if not one_column or source.options.uri_column is not None:
            raise _no_column(source, widest)
        columns: Columns | None = Columns(uri=0, width=1)
    else:
        columns = None
    for line, row in _rows(table, place - 1, source):
        if columns is None:
            columns = _columns(row, source)
        elif row:
            yield columns.entry(row, line, source.wrong)


def _rows(table: Any, before: int, source: Source) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a csv.reader, each with the number of its last line."""
    first = before + 1
    try:
        for row in table:
            yield before + table.line_num, row
            first = before + table.line_num + 1
    except csv.Error as error:  # the row may have swallowed all lines up to the end
        raise source.wrong(
            first,
            f"is not a readable list of images ({error})",
            "Close each quote, and write a quote inside quotes twice.",
        ) from error


def _columns(header: Sequence[str], source: Source) -> Columns:
    columns = find_columns(header, source.options.uri_column)
    if columns is None:
        raise _no_column(source, header)
    twice = repeated_column(header, columns, source.options.uri_column)
    if twice is not None:
        raise UserError(source.uri, f"has two columns {twice!r}", "Rename or remove one of them.")
    return columns


def _no_column(source: Source, header: Sequence[str]) -> UserError:
    named = source.options.uri_column
    names = ", ".join(repr(name) for name in header[:20])
    wanted = f", but no column {named!r}" if named else ""
    return UserError(source.uri, f"has the columns {names}{wanted}", _HINT)


def _read_s3_batch(path: Path, source: Source) -> Iterator[Entry]:
    """Rows `bucket,key` or `bucket,key,version`. Keys are URL-encoded, as in the documentation of S3."""
    scheme = parse(source.uri).root if parse(source.uri).scheme in ("s3", "s3a") else "s3://"
    with open_text(path, source.uri, "") as lines:
        table = csv.reader(lines, strict=True)
        for line, row in _rows(table, 0, source):
            if not any(row):
                continue
            if tuple(cell.strip().lower() for cell in row[:2]) == ("bucket", "key"):
                raise source.wrong(
                    line,
                    f"is a header: {', '.join(map(repr, row[:5]))}",
                    "Leave out the header, or --list-format s3-batch if the keys are plain text.",
                )
            if len(row) not in (2, 3) or not all(row[:2]):
                raise source.wrong(
                    line,
                    f"has the fields {', '.join(map(repr, row[:5]))}",
                    "Expected bucket,key or bucket,key,version.",
                )
            yield line, f"{scheme}{row[0].strip()}/{unquote_plus(row[1])}", None, None


def _read_json_lines(path: Path, source: Source) -> Iterator[Entry]:
    with open_text(path, source.uri, "\n") as lines:
        for place, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise source.wrong(
                    place, f"is no JSON ({error})", "Write one object on each line."
                ) from error
            if isinstance(value, str):
                value = {source.options.uri_column or "image_uri": value}
            if not isinstance(value, Mapping):
                raise source.wrong(
                    place,
                    "is null" if value is None else f"is a {type(value).__name__}",
                    'Expected an object such as {"image_uri": "s3://bucket/a.jpg"}.',
                )
            names = list(value)
            columns = find_columns(names, source.options.uri_column)
            if columns is None:
                keys = ", ".join(map(repr, names[:20]))
                raise source.wrong(place, f"has the keys {keys}" if keys else "has no keys", _HINT)
            twice = repeated_column(names, columns, source.options.uri_column)
            if twice is not None:
                raise source.wrong(
                    place, f"has two keys {twice!r}", "Rename or remove one of them."
                )
            yield columns.entry(list(value.values()), place, source.wrong)


def _read_parquet(path: Path, source: Source) -> Iterator[Entry]:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        columns = _columns(schema.names, source)
        for index in columns.uri_parts:
            kind = schema.field(index).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if not (_is_string(kind) or pa.types.is_null(kind)):
                raise UserError(
                    source.uri,
                    f"its column {schema.names[index]!r} has the type {kind}",
                    "Expected URIs as strings.",
                )
        wanted = [schema.names[index] for index in columns.indices]
        narrow = columns.narrowed()
        place = 0
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=wanted):
            values = (batch[name].to_pylist() for name in wanted)
            for row in zip(*values, strict=True):
                place += 1
                yield narrow.entry(row, place, source.wrong)


def _is_string(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


_READERS: Mapping[str, Reader] = {
    ".csv": _read_table,
    ".tsv": _read_table,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
