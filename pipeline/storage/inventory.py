"""S3 Inventory: the list of a bucket that S3 writes every day or week, so that nobody has to list a billion
keys.

    .../<bucket>/<id>/2026-11-01T01-00Z/manifest.json     names the data files: CSV (gzip), Parquet or ORC

Format: docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html. Keys in CSV are
URL-encoded, a space as "+"; in Parquet and ORC they are plain. Older versions and delete markers are left
out.
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
"""In one table of them: what is held of a list of any length."""
_NEEDED = ("bucket", "key")
_CSV_NAMES = {
    "etag": "e_tag",
    "islatest": "is_latest",
    "isdeletemarker": "is_delete_marker",
}
"""Names of CSV columns in lower case -> those of Parquet and ORC."""
_WANTED = ("bucket", "key", "size", "e_tag", "is_latest", "is_delete_marker")

Columns = dict[str, Sequence[Any]]


def iter_inventory(uri: str) -> Iterator[pa.Table]:
    """The current objects an inventory lists: image_uri, etag and size_bytes (null where it has no such
    column).

    Raises:
        UserError: no inventory, without bucket or key, or a data file that is not the one it was made with.
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
            uri, f"is no manifest of an S3 Inventory ({error!r})", "Give the manifest.json of one."
        ) from error
    root = parse(uri).root
    for key, checksum in files:
        name = f"{root}{bucket}/{key}"
        with local_copy(name) as path:
            _check(name, path, checksum)
            for columns in read(path, schema):
                yield _current(uri, root, columns)


def _check(name: str, path: Path, checksum: str | None) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if checksum is not None and found != checksum:
        raise UserError(
            name, f"has the MD5 {found}, not the {checksum} of its manifest", "Take a newer one."
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
    """CSV's text as the values that Parquet and ORC hold."""
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
    there = [name for name in _WANTED if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=there):
        yield {name: batch[name].to_pylist() for name in there}


def _read_orc(path: Path, schema: str) -> Iterator[Columns]:
    file = orc.ORCFile(path)
    there = [name for name in _WANTED if name in file.schema.names]
    for stripe in range(file.nstripes):
        batch = file.read_stripe(stripe, columns=there)
        yield {name: batch[name].to_pylist() for name in there}


def _current(uri: str, root: str, columns: Columns) -> pa.Table:
    lacking = [name for name in _NEEDED if name not in columns]
    if lacking:
        raise UserError(uri, f"has no column {lacking[0]}", "Make the inventory with it.")
    count = len(columns["key"])
    latest = columns.get("is_latest", [True] * count)
    deleted = columns.get("is_delete_marker", [False] * count)
    etags = columns.get("e_tag", [None] * count)
    sizes = columns.get("size", [None] * count)
    rows = [
        (f"{root}{bucket}/{key}", (etag or "").strip('"') or None, size)
        for bucket, key, etag, size, new, gone in zip(
            columns["bucket"], columns["key"], etags, sizes, latest, deleted, strict=True
        )
        if new is not False and not gone
    ]
    uris, etags, sizes = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table([list(uris), list(etags), list(sizes)], schema=NAMED)
