"""Lists of URIs that somebody else made: text, CSV, Parquet, or what S3 Inventory writes; of any length."""

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

MANIFEST_SUFFIXES = (".txt", ".csv", ".parquet")
_COLUMNS = ("image_uri", "uri")

Row = tuple[str, str | None, int | None]


def is_manifest(uri: str) -> bool:
    """Whether the name is that of a list of images and not of images."""
    return uri.lower().endswith(MANIFEST_SUFFIXES) or is_inventory(uri)


def is_inventory(uri: str) -> bool:
    """Whether the name is that of an S3 Inventory's manifest."""
    return uri.endswith(f"/{INVENTORY}")


def iter_manifest(uri: str) -> Iterator[pa.Table]:
    """The images a manifest names, in its order, in tables NAMED; an image may come twice.

    ``.txt``: one URI a line, byte for byte. ``.csv``: the column `image_uri` or `uri`, else the first; a
    first row that is itself a URI means there is no header. ``.parquet``: the column `image_uri` or `uri`.
    Columns `etag` and `size_bytes` beside it save a request an image. ``manifest.json``: see `inventory`.
    Relative local paths are taken from the working directory, as everywhere.

    Raises:
        UserError: not there, not readable as what its suffix says, or without a URI.
    """
    empty = True
    with driver_errors(uri):
        for table in iter_inventory(uri) if is_inventory(uri) else _tables(uri):
            empty = empty and not table.num_rows
            yield table
    if empty:
        raise UserError(uri, "names no image", "Put one URI on each line.")


def _tables(uri: str) -> Iterator[pa.Table]:
    rows = {".parquet": _from_parquet, ".csv": _from_csv}.get(Path(uri.lower()).suffix, _from_text)
    try:
        with local_copy(uri) as path:
            named = (row for row in rows(path, uri) if row[0])
            while some := list(itertools.islice(named, ROWS_AT_ONCE)):
                uris, etags, sizes = zip(*some, strict=True)
                yield pa.table([list(map(_spelled, uris)), list(etags), list(sizes)], schema=NAMED)
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, ValueError) as error:
        raise UserError(uri, f"not a readable manifest ({error})", "Write it as UTF-8.") from error


def _spelled(entry: str) -> str:
    """A blank before "s3://" is no part of a key; one at the end may be. A leading `~` is part of a
    name: the shell that would expand it has not seen the list."""
    if entry.startswith("~"):
        return absolute(f"./{entry}")
    return absolute(entry.lstrip() if "://" in entry else entry)


def _from_text(path: Path, uri: str) -> Iterator[Row]:
    # Only line ends are taken off: a key may end in a space, and may hold U+2028.
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
            uri, f"has the columns {', '.join(names)}", "Call the one with the URIs image_uri."
        )
    known = [name for name in ("etag", "size_bytes") if name in names]
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column, *known]):
        nothing = [None] * batch.num_rows
        etags, sizes = (
            batch[name].to_pylist() if name in known else nothing for name in ("etag", "size_bytes")
        )
        uris = batch[column].cast(pa.string()).to_pylist()
        yield from (
            (entry, etag, size)
            for entry, etag, size in zip(uris, etags, sizes, strict=True)
            if entry is not None
        )
