"""Reads lists of images: text, CSV and Parquet files, or an S3 Inventory. A list may have any length."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.schema import NAMED
from pipeline.storage.inventory import INVENTORY, ROWS_AT_ONCE, iter_inventory
from pipeline.storage.objects import driver_errors, local_copy
from pipeline.storage.uris import absolute

LIST_SUFFIXES = (".txt", ".csv", ".parquet")
_COLUMNS = ("image_uri", "uri")

Row = tuple[str, str | None, int | None]
"""(URI, ETag, size in bytes) of one entry, as the list has them; None if it has none."""


def is_image_list(uri: str) -> bool:
    """Whether the name is that of a list of images, and not of an image or a folder."""
    return uri.lower().endswith(LIST_SUFFIXES) or is_inventory(uri)


def is_inventory(uri: str) -> bool:
    """Whether the name is that of an S3 Inventory's manifest.json."""
    return uri.endswith(f"/{INVENTORY}")


def iter_image_list(uri: str) -> Iterator[pa.Table]:
    """Yield the images of a list, in its order, as tables NAMED. An image may occur twice.

    ``.txt``: one URI a line, byte for byte. ``.csv``: the column `image_uri` or `uri`, else the first column;
    if the first row is a URI, the file has no header. ``.parquet``: the column `image_uri` or `uri`. The
    columns `etag` and `size_bytes` are read too; they save one request an image. ``manifest.json``: see
    `inventory`. Relative local paths are relative to the working directory, as everywhere.

    Raises:
        UserError: the list does not exist, cannot be read as the kind that its suffix names, or has no URI.
    """
    empty = True
    with driver_errors(uri):
        for table in iter_inventory(uri) if is_inventory(uri) else _tables(uri):
            empty = empty and not table.num_rows
            yield table
    if empty:
        raise UserError(uri, "names no image", "Expected one URI on each line.")


def _tables(uri: str) -> Iterator[pa.Table]:
    rows = {".parquet": _from_parquet, ".csv": _from_csv}.get(Path(uri.lower()).suffix, _from_text)
    try:
        with local_copy(uri) as path:
            entries = (row for row in rows(path, uri) if row[0])
            while chunk := list(itertools.islice(entries, ROWS_AT_ONCE)):
                uris, etags, sizes = zip(*chunk, strict=True)
                absolute_uris = [_absolute(entry) for entry in uris]
                yield pa.table([absolute_uris, list(etags), list(sizes)], schema=NAMED)
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, ValueError) as error:
        raise UserError(
            uri, f"is not a readable list of images ({error})", "Save it as UTF-8."
        ) from error


def _absolute(entry: str) -> str:
    """Make the URI of an entry absolute.

    A space before "s3://" is not part of the key, but a space at the end may be. A leading `~` is part of a
    file name, because no shell has expanded the list.
    """
    if entry.startswith("~"):
        return absolute(f"./{entry}")
    return absolute(entry.lstrip() if "://" in entry else entry)


def _from_text(path: Path, uri: str) -> Iterator[Row]:
    # Only line ends are removed: a key may end in a space, and may hold U+2028.
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for line in lines:
            yield line.removesuffix("\n").rstrip("\r"), None, None


def _from_csv(path: Path, uri: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = (row for row in csv.reader(lines) if row)
        header = next(rows, [])
        column = next((header.index(name) for name in _COLUMNS if name in header), None)
        if column is None and header and ("://" in header[0] or header[0].startswith("/")):
            yield header[0], None, None
        etag = header.index("etag") if column is not None and "etag" in header else None
        size = header.index("size_bytes") if column is not None and "size_bytes" in header else None
        for row in rows:
            if (column or 0) < len(row):
                yield (
                    row[column or 0],
                    row[etag] or None if etag is not None else None,
                    int(row[size]) if size is not None and row[size] else None,
                )


def _from_parquet(path: Path, uri: str) -> Iterator[Row]:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    column = next((name for name in _COLUMNS if name in names), None)
    if column is None:
        raise UserError(
            uri,
            f"has the columns {', '.join(names)}",
            f"Expected a column {' or '.join(_COLUMNS)} with the URIs.",
        )
    known = [name for name in ("etag", "size_bytes") if name in names]
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column, *known]):
        nulls = [None] * batch.num_rows
        etags, sizes = (
            batch[name].to_pylist() if name in known else nulls for name in ("etag", "size_bytes")
        )
        uris = batch[column].cast(pa.string()).to_pylist()
        yield from (
            (entry, etag, size)
            for entry, etag, size in zip(uris, etags, sizes, strict=True)
            if entry is not None
        )
