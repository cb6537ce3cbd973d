"""Reads S3 Inventory: a list of a bucket that S3 writes every day or week, so that nobody must list it.

    .../<bucket>/<id>/2026-11-01T01-00Z/manifest.json     names the data files: CSV (gzip), Parquet or ORC

Format: docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html. In CSV the keys are
URL-encoded, with "+" for a space; in Parquet and ORC they are plain text. Older versions and delete markers
are left out.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

from pipeline.errors import UserError
from pipeline.schema import NAMED
from pipeline.storage.objects import local_copy, read_bytes
from pipeline.storage.retry import DRIVER_DEADLINE_S
from pipeline.storage.uris import parse

INVENTORY = "manifest.json"
ROWS_AT_ONCE = 50_000
"""Rows of one table. A list of any length takes the memory of one table."""
_NEEDED = ("bucket", "key")
_CSV_NAMES = {
    "etag": "e_tag",
    "islatest": "is_latest",
    "isdeletemarker": "is_delete_marker",
}
"""Names of CSV columns, in lower case -> the names in Parquet and ORC."""
_WANTED = ("bucket", "key", "size", "e_tag", "is_latest", "is_delete_marker")

Columns = dict[str, Sequence[Any]]


def iter_inventory(uri: str) -> Iterator[pa.Table]:
    """Yield the current objects of an inventory, as tables NAMED.

    etag and size_bytes are null if the inventory has no such column.

    Args:
        uri: the inventory's manifest.json.

    Raises:
        UserError: the file is no inventory, has no column for the bucket or the key, or a data file has
            another MD5 than the manifest states.
        StorageError: a data file cannot be read.
    """
    try:
        described = json.loads(read_bytes(uri, deadline_s=DRIVER_DEADLINE_S))
        bucket = described["destinationBucket"].rpartition(":")[2]
        kind, schema = described["fileFormat"], described["fileSchema"]
        files = [(entry["key"], entry.get("MD5checksum")) for entry in described["files"]]
        read = {"CSV": _read_csv, "Parquet": _read_parquet, "ORC": _read_orc}[kind]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            uri,
            f"is not the manifest of an S3 Inventory ({error!r})",
            "Give the manifest.json of an inventory.",
        ) from error
    root = parse(uri).root
    for key, checksum in files:
        name = f"{root}{bucket}/{key}"
        with local_copy(name) as path:
            _check(name, path, checksum)
            for columns in read(path, schema):
                yield _current(uri, root, columns)


def _check(name: str, path: Path, checksum: str | None) -> None:
    """Compare the MD5 of a data file with the manifest."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if checksum is not None and digest != checksum:
        raise UserError(
            name,
            f"has the MD5 {digest}, but the inventory's manifest states {checksum}",
            "The file has changed. Give a newer inventory.",
        )


def _read_csv(path: Path, schema: str) -> Iterator[Columns]:
    names = [name.strip().lower() for name in schema.split(",")]
    names = [_CSV_NAMES.get(name, name) for name in names]
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows: list[list[str]] = []
        for row in csv.reader(lines):
            rows.append(row)
            if len(rows) == ROWS_AT_ONCE:
                yield _plain(dict(zip(names, zip(*rows, strict=True), strict=True)))
                rows = []
        if rows:
            yield _plain(dict(zip(names, zip(*rows, strict=True), strict=True)))


def _plain(columns: Columns) -> Columns:
    """Turn the text of CSV columns into the values that Parquet and ORC hold."""
    changed = dict(columns)
    if "key" in columns:
        changed["key"] = [unquote_plus(key) for key in columns["key"]]
    if "size" in columns:
        changed["size"] = [int(size) if size else None for size in columns["size"]]
    for name in ("is_latest", "is_delete_marker"):
        if name in columns:
            changed[name] = [value.lower() == "true" for value in columns[name]]
    return changed


def _read_parquet(path: Path, schema: str) -> Iterator[Columns]:
    file = pq.ParquetFile(path)
    columns = [name for name in _WANTED if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
        yield {name: batch[name].to_pylist() for name in columns}


def _read_orc(path: Path, schema: str) -> Iterator[Columns]:
    file = orc.ORCFile(path)
    columns = [name for name in _WANTED if name in file.schema.names]
    for stripe in range(file.nstripes):
        batch = file.read_stripe(stripe, columns=columns)
        yield {name: batch[name].to_pylist() for name in columns}


def _current(uri: str, root: str, columns: Columns) -> pa.Table:
    """Make a table NAMED of the rows that are the latest version and no delete marker."""
    absent = [name for name in _NEEDED if name not in columns]
    if absent:
        raise UserError(
            uri, f"has no column {absent[0]}", "Configure the inventory to include this column."
        )
    count = len(columns["key"])
    latest = columns.get("is_latest", [True] * count)
    deleted = columns.get("is_delete_marker", [False] * count)
    etags = columns.get("e_tag", [None] * count)
    sizes = columns.get("size", [None] * count)
    rows = [
        (f"{root}{bucket}/{key}", (etag or "").strip('"') or None, size)
        for bucket, key, etag, size, is_latest, is_deleted in zip(
            columns["bucket"], columns["key"], etags, sizes, latest, deleted, strict=True
        )
        if is_latest is not False and not is_deleted
    ]
    uris, etags, sizes = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table([list(uris), list(etags), list(sizes)], schema=NAMED)
