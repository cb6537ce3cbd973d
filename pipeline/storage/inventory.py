"""Reads S3 Inventory: a list of a bucket that S3 writes every day or week, so that nobody must list it.

    .../<bucket>/<id>/2026-11-01T01-00Z/manifest.json     names the data files: CSV (gzip), Parquet or ORC

Format: docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html. In CSV the keys are
URL-encoded, with "+" for a space; in Parquet and ORC they are plain text. Older versions and delete markers
are left out.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

from pipeline.errors import UserError
from pipeline.schema import NAMED
from pipeline.storage.access import OPEN, Access
from pipeline.storage.list_formats import ROWS_AT_ONCE
from pipeline.storage.list_texts import open_text
from pipeline.storage.objects import exists, local_copy, read_bytes
from pipeline.storage.retry import DEADLINE_S
from pipeline.storage.uris import Location, basename, parse

INVENTORY = "manifest.json"
_DAMAGED = (csv.Error, pa.ArrowException, UnicodeDecodeError, zlib.error, EOFError, OSError)
"""What the readers raise for a damaged file. pyarrow raises OSError for damaged blocks."""
_NEEDED = ("bucket", "key")
_CSV_NAMES = {
    "etag": "e_tag",
    "islatest": "is_latest",
    "isdeletemarker": "is_delete_marker",
}
"""Names of CSV columns, in lower case -> the names in Parquet and ORC."""
_COLUMNS = ("bucket", "key", "size", "e_tag", "is_latest", "is_delete_marker")

Columns = dict[str, Sequence[Any]]


def iter_inventory(uri: str, access: Access = OPEN) -> Iterator[pa.Table]:
    """Yield the current objects of an inventory, as tables NAMED.

    etag and size_bytes are null if the inventory has no such column. The objects lie in S3, wherever the
    manifest lies.

    Args:
        uri: the inventory's manifest.json. If it is a local file, its data files are looked for beside it
            first, as a copied folder has them.
        access: limits for a manifest on the web.

    Raises:
        UserError: the file is no inventory, has no column for the bucket or the key, or a data file has
            another MD5 than the manifest states.
        StorageError: a data file cannot be read.
    """
    try:
        described = json.loads(read_bytes(uri, deadline_s=DEADLINE_S, access=access))
        bucket = described["destinationBucket"].rpartition(":")[2]
        kind, schema = described["fileFormat"], described["fileSchema"]
        files = [(entry["key"], entry.get("MD5checksum")) for entry in described["files"]]
        if not all(isinstance(text, str) for text in (schema, *(key for key, _ in files))):
            raise TypeError("fileSchema and the keys of files must be texts")
        read = {"CSV": _read_csv, "Parquet": _read_parquet, "ORC": _read_orc}[kind]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise UserError(
            uri,
            f"is not the manifest of an S3 Inventory ({error!r})",
            "Give the manifest.json of an inventory.",
        ) from error
    location = parse(uri)
    root = location.root if location.scheme in ("s3", "s3a") else "s3://"
    for key, checksum in files:
        name = _data_file(location, root, bucket, key)
        with local_copy(name) as path:
            _check_md5(name, path, checksum)
            try:
                for columns in read(path, schema, name):
                    yield _current_objects(uri, root, columns)
            except _DAMAGED as error:
                raise UserError(
                    name,
                    f"is not a readable data file of an inventory ({error})",
                    "Give a newer inventory.",
                ) from error


def _data_file(manifest: Location, root: str, bucket: str, key: str) -> str:
    """Return the URI of a data file: in its bucket, or in a local copy of the inventory's folder."""
    if manifest.is_local:
        folder = manifest.path.rpartition("/")[0]
        places = (f"{bucket}/{key}", key, f"data/{basename(key)}", f"../data/{basename(key)}")
        for place in places:
            path = f"{manifest.root}{os.path.normpath(f'{folder}/{place}')}"
            if exists(path):
                return path
    return f"{root}{bucket}/{key}"


def _check_md5(name: str, path: Path, checksum: str | None) -> None:
    """Compare the MD5 of a data file with the manifest."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if checksum is not None and digest != checksum:
        raise UserError(
            name,
            f"has the MD5 {digest}, but the inventory's manifest states {checksum}",
            "The file has changed. Give a newer inventory.",
        )


def _read_csv(path: Path, schema: str, name: str) -> Iterator[Columns]:
    names = [name.strip().lower() for name in schema.split(",")]
    names = [_CSV_NAMES.get(name, name) for name in names]
    with open_text(path, name, "") as lines:
        table = csv.reader(lines, strict=True)
        rows: list[list[str]] = []
        for row in table:
            if len(row) != len(names):
                raise UserError(
                    f"{name}, line {table.line_num}",
                    f"has {len(row)} cells, expected {len(names)}: {schema}",
                    "Give a newer inventory.",
                )
            rows.append(row)
            if len(rows) == ROWS_AT_ONCE:
                yield _parse_csv_values(dict(zip(names, zip(*rows, strict=True), strict=True)))
                rows = []
        if rows:
            yield _parse_csv_values(dict(zip(names, zip(*rows, strict=True), strict=True)))


def _parse_csv_values(columns: Columns) -> Columns:
    """Turn the text of CSV columns into the values that Parquet and ORC hold."""
    changed = dict(columns)
    if "key" in columns:
        changed["key"] = [unquote_plus(key) for key in columns["key"]]
    if "size" in columns:
        changed["size"] = [int(size) if size.isdecimal() else None for size in columns["size"]]
    for name in ("is_latest", "is_delete_marker"):
        if name in columns:
            changed[name] = [value.lower() == "true" for value in columns[name]]
    return changed


def _read_parquet(path: Path, schema: str, name: str) -> Iterator[Columns]:
    file = pq.ParquetFile(path)
    columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
        yield {name: batch[name].to_pylist() for name in columns}


def _read_orc(path: Path, schema: str, name: str) -> Iterator[Columns]:
    file = orc.ORCFile(path)
    columns = [name for name in _COLUMNS if name in file.schema.names]
    for stripe in range(file.nstripes):
        batch = file.read_stripe(stripe, columns=columns)
        yield {name: batch[name].to_pylist() for name in columns}


def _current_objects(uri: str, root: str, columns: Columns) -> pa.Table:
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
