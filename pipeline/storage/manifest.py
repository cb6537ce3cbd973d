"""Lists of URIs that somebody else made: text, CSV or Parquet."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.storage.objects import driver_errors, read_bytes
from pipeline.storage.retry import DRIVER_DEADLINE_S
from pipeline.storage.uris import absolute

MANIFEST_SUFFIXES = (".txt", ".csv", ".parquet")
_COLUMNS = ("image_uri", "uri")


def read_manifest(uri: str) -> list[str]:
    """The URIs a manifest names, in its order, each once.

    ``.txt``: one a line, byte for byte. ``.csv``: the column `image_uri` or `uri`, else the first; a first
    row that is itself a URI means there is no header. ``.parquet``: the column `image_uri` or `uri`.
    Relative local paths are taken from the working directory, as everywhere.

    Raises:
        UserError: not there, not readable as what its suffix says, or without a URI.
    """
    with driver_errors(uri):
        data = read_bytes(uri, deadline_s=DRIVER_DEADLINE_S)
    try:
        if uri.lower().endswith(".parquet"):
            uris = _from_parquet(data, uri)
        elif uri.lower().endswith(".csv"):
            uris = _from_csv(data.decode("utf-8-sig"))
        else:
            # Only line ends are taken off: a key may end in a space, and may hold U+2028.
            uris = [line.rstrip("\r") for line in data.decode("utf-8-sig").split("\n")]
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise UserError(uri, f"not a readable manifest ({error})", "Write it as UTF-8.") from error
    # A blank before "s3://" is no part of a key; one at the end may be.
    uris = [absolute(entry.lstrip() if "://" in entry else entry) for entry in uris if entry]
    if not uris:
        raise UserError(uri, "names no image", "Put one URI on each line.")
    return list(dict.fromkeys(uris))


def _from_csv(text: str) -> list[str]:
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    if not rows:
        return []
    header = rows[0]
    column = next((header.index(name) for name in _COLUMNS if name in header), None)
    if column is None and ("://" in header[0] or header[0].startswith("/")):
        return [row[0] for row in rows]
    column = column or 0
    return [row[column] for row in rows[1:] if column < len(row)]


def _from_parquet(data: bytes, uri: str) -> list[str]:
    file = pq.ParquetFile(io.BytesIO(data))
    name = next((name for name in _COLUMNS if name in file.schema_arrow.names), None)
    if name is None:
        raise UserError(
            uri,
            f"has the columns {', '.join(file.schema_arrow.names)}",
            "Call the one with the URIs image_uri.",
        )
    return [str(entry) for entry in file.read([name])[name].to_pylist() if entry is not None]
