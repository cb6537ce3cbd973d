"""The Arrow schemas of all tables, in the order of the steps of scoring.

    NAMED        the images that a command names, from a listing, a list or an inventory
    PLAN         plans/: the planned images, and the shard of each
    TASK         work for the CPU stage: some rows of a shard
    CANDIDATE    output of the CPU stage: encoded bytes and proposals, or the status of a failed image
    RESULT       output of the Detector: the columns of scored/, the shard, the seconds for the image
    SCORED       scored/: one row for each planned image in a run
    DETECTIONS   detections/: one row for each box

The tables of proposals are PROPOSALS, PROPOSALS_CACHE, PROPOSALS_EXPORT and PROPOSALS_IMPORT.

The types are explicit, so that a file without boxes has the same types as a file with boxes. List elements
are named `element` and dictionary indices are int32, because Parquet returns them so: a table that is read is
equal to the table that was written.

A table may change in only one way: a new nullable column is added at the end of SCORED, and TABLE_VERSION is
raised. No column is renamed, retyped or dropped. A run keeps the columns that it began with, and readers read
a missing column as null (`read_columns`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

TABLE_VERSION = 2
"""Format of `scored/`. It is in the metadata of every file. Version 2 added `generation` and `num_tiles`."""
PLAN_VERSION = 1
"""Format of `plans/`."""
DETECTIONS_VERSION = 1
"""Format of `detections/`."""

STATUSES = (
    "ok",
    "missing",
    "changed",
    "denied",
    "unreadable",
    "too_large",
    "undecodable",
    "failed",
)
"""The values of `status`. Only a row with status `ok` has a result; without boxes, it means that the detector
detected nothing."""

COORDINATES = "xyxy, absolute pixels, continuous edges, in the image after its EXIF orientation"

NAMED = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64()),
    ]
)
"""Images that a command names. The ETag and the size come from the listing or list; null if it has none."""

PLAN = NAMED.append(pa.field("shard", pa.int64(), nullable=False))
"""`plans/`: the images to score, and the shard that each belongs to."""

TASK = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
    ]
)
"""A piece of work: `rows` rows of a shard, from row `first` on. `part` is the URI of the part of the plan
that holds the shard."""

CANDIDATE = pa.schema(
    [
        *PLAN,
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("image", pa.large_binary()),
        pa.field("proposals", pa.large_binary()),
    ]
)
"""A planned image after reading. `image`: the encoded bytes, as in the bucket. `proposals`: the bytes of a
(P, 4) float32 array in row order, xyxy in the image frame. Both are null unless `status` is `ok`. `proposals`
is also null if the model has an RPN that makes the proposals."""

_BOX = [pa.field(name, pa.float32()) for name in ("x_min", "y_min", "x_max", "y_max")]

DETECTION = pa.struct(
    [
        pa.field("label", pa.string()),
        pa.field("label_id", pa.int16()),
        pa.field("score", pa.float32()),
        *_BOX,
    ]
)

SCORED = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("error", pa.string()),
        pa.field("model_id", pa.string()),
        pa.field("run_id", pa.string()),
        pa.field("scored_at", pa.timestamp("us", tz="UTC")),
        pa.field("num_proposals", pa.int32()),
        pa.field("num_detections", pa.int32()),
        pa.field("detections", pa.list_(pa.field("element", DETECTION))),
        pa.field("generation", pa.int32()),
        pa.field("num_tiles", pa.int32()),
    ]
)
"""`scored/`: one row for each planned image in a run. `detections` is sorted by falling score. `generation`
is the generation of the plan that the row belongs to, null = 1. `num_tiles` is the number of tiles that were
scored besides the whole image, null = none."""

FIRST_COLUMNS = tuple(SCORED.names[: SCORED.get_field_index("detections") + 1])
"""The columns of version 1. A run whose config.json names no columns has these."""

RESULT = pa.schema(
    [
        *(
            field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field
            for field in SCORED
        ),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("detect_s", pa.float32()),
    ]
)
"""A result row before it is written: the columns of scored/, the number of the shard, and the seconds that a
Detector was busy with the image. The status is plain text here, because blocks from different workers are
concatenated before the column is encoded."""

DETECTIONS = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("detection", pa.int16()),
        pa.field("label", pa.string()),
        pa.field("label_id", pa.int16()),
        pa.field("score", pa.float32()),
        *_BOX,
        pa.field("model_id", pa.string()),
    ]
)
"""`detections/`: one row for each box. `detection` is the position of the box in the image's list, from 0."""

PROPOSALS = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("boxes", pa.list_(pa.field("element", pa.list_(pa.float32(), 4)))),
        pa.field("scores", pa.list_(pa.field("element", pa.float32()))),
    ]
)
"""A table of proposals. `boxes`: xyxy in the image frame, best first. `scores`: null if there are none."""

BOXES = pa.list_(pa.list_(pa.field("item", pa.float32()), 4))
"""The boxes of one image in the tables of proposals that this program writes."""

PROPOSALS_CACHE = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("boxes", BOXES),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("error", pa.string()),
    ]
)
"""Proposals that training computed. The boxes and sizes are null if there is an `error`."""

PROPOSALS_EXPORT = PROPOSALS.append(pa.field("etag", pa.string())).append(
    pa.field("error", pa.string())
)
"""Proposals of an RPN before they are written to a table. Rows with an error are not written. The ETag shows
which version of the image was done."""

PROPOSALS_IMPORT = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("boxes", BOXES, nullable=False),
        pa.field("scores", pa.list_(pa.float32())),
    ]
)
"""Proposals of another program."""


def scored_metadata(
    classes: Sequence[str], model_id: str, *, format_version: int | None = None
) -> dict[bytes, bytes]:
    """Return the file metadata of `scored/` and `detections/`: format version, classes, coordinates, model.

    Args:
        classes: K names, written as JSON; label k is classes[k - 1].
        model_id: the detector.
        format_version: None means TABLE_VERSION.
    """
    version = TABLE_VERSION if format_version is None else format_version
    return {
        b"format_version": str(version).encode(),
        b"classes": json.dumps(list(classes), ensure_ascii=False).encode(),
        b"coordinates": COORDINATES.encode(),
        b"model_id": model_id.encode(),
    }


class NewerFormatError(ValueError):
    """The file is undamaged, but this program is too old to read it."""


def check_version(version: int, newest: int) -> None:
    """Check that this program can read a format.

    Args:
        version: the version of the format that the file names.
        newest: the newest version that this program reads. It reads all older versions too.

    Raises:
        NewerFormatError: `version` is above `newest`.
        ValueError: `version` is below 1, so no program wrote it.
    """
    if version > newest:
        raise NewerFormatError(
            f"was written by a newer version of this program (format {version}, this one reads {newest})"
        )
    if version < 1:
        raise ValueError(f"format_version is {version}, expected 1 to {newest}")


def read_columns(file: pq.ParquetFile, wanted: Iterable[pa.Field]) -> pa.Table:
    """Read columns of one file. A nullable column that the file lacks is filled with nulls.

    Args:
        file: a Parquet file of this format or an older one. Other columns in it are ignored.
        wanted: the columns to return, in this order.

    Raises:
        KeyError: the file lacks a column that is not nullable.
    """
    fields = list(wanted)
    present = set(file.schema_arrow.names)
    lacking = [field.name for field in fields if field.name not in present and not field.nullable]
    if lacking:
        raise KeyError(f"no column {lacking[0]}")
    # At least one column is read, because without a column pyarrow loses the number of rows.
    some = [field.name for field in fields if field.name in present] or file.schema_arrow.names[:1]
    table = file.read(some)
    columns = [
        table[field.name] if field.name in present else pa.nulls(table.num_rows, field.type)
        for field in fields
    ]
    return pa.table(columns, names=[field.name for field in fields])


def image_keys(rows: pa.Table) -> Iterator[tuple[str, str | None]]:
    """Yield (image_uri, etag) of each row. The pair identifies one version of an image."""
    return zip(rows["image_uri"].to_pylist(), rows["etag"].to_pylist(), strict=True)


def in_tables_of(rows: int, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Regroup tables into tables of `rows` rows. The last table may have fewer."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count < rows:
            continue
        whole = pa.concat_tables(waiting)
        full = count - count % rows
        for first in range(0, full, rows):
            yield whole.slice(first, rows)
        waiting, count = [whole.slice(full)], count - full
    if count:
        yield pa.concat_tables(waiting)


def encode_parquet(table: pa.Table, *, metadata: Mapping[bytes, bytes]) -> bytes:
    """Encode a table as a Parquet file: zstd, page checksums, `metadata` in its footer.

    The file is made in memory, because a file that is written in pieces stays incomplete if its writer fails.

    Raises:
        ValueError: a column that is not nullable has a null. pyarrow would write it without an error.
    """
    for field, column in zip(table.schema, table.columns, strict=True):
        if not field.nullable and column.null_count:
            raise ValueError(
                f"column {field.name} has {column.null_count} nulls, but it is not nullable"
            )
    merged = {**(table.schema.metadata or {}), **metadata}
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(merged), sink, compression="zstd", write_page_checksum=True
    )
    return sink.getvalue()
