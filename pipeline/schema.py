"""Columns and Arrow schemas of every table, in the order in which an image meets them.

    NAMED        the images that a command names: a listing, a list, an inventory
    PLAN         plans/: the planned images, and the shard of each
    TASK         pieces of work for the CPU stage: some rows of a shard
    CANDIDATE    the CPU stage's answer: encoded bytes and proposals, or the status that says why not
    RESULT       the Detector's answer: the columns of scored/, the shard, the seconds it took
    SCORED       scored/: one row a planned image and run
    DETECTIONS   detections/: one row a box

Beside them stand the tables of proposals: PROPOSALS, PROPOSALS_CACHE, PROPOSALS_EXPORT, PROPOSALS_IMPORT.

The types are explicit, so that a file without boxes has the same types as one with boxes. List elements are
named `element` and dictionary indices are int32, because Parquet gives them back so: what is read equals
what was written.

Tables grow in one way only: a new column that may be null is added at the end of SCORED, and TABLE_VERSION
is raised. No column is renamed, retyped or dropped. A run keeps the columns that it began with, and readers
take a column that a file lacks as null (`read_columns`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

TABLE_VERSION = 2
"""Format of `scored/`, in the metadata of every file. Version 2 added `generation` and `num_tiles`."""
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
"""What `status` may say. All but `ok` mean "not looked at"."""

COORDINATES = "xyxy, absolute pixels, continuous edges, in the image after its EXIF orientation"

NAMED = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64()),
    ]
)
"""Images that a command names; etag and size as the list has them, null where it has none."""

PLAN = NAMED.append(pa.field("shard", pa.int64(), nullable=False))
"""`plans/`: what is to be scored, and the shard each image belongs to."""

TASK = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
    ]
)
"""A piece of work: `rows` rows of a shard from `first` on; `part` is the URI of the plan's part with the
shard."""

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
"""A planned image that was read. `image`: the encoded bytes as they lie in the bucket. `proposals`: (P, 4)
float32, row by row. Both are null unless `status` is `ok`; `proposals` also where the model makes its own."""

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
"""`scored/`: one row a planned image and run; `detections` by falling score. `generation`: which generation
of the plan the row belongs to, null = 1. `num_tiles`: how many tiles were looked at beside the whole image,
null = none."""

FIRST_COLUMNS = tuple(SCORED.names[: SCORED.get_field_index("detections") + 1])
"""The columns of version 1: those of a run that does not say what it began with."""

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
"""A result row on its way to its shard: the columns of scored/, the number of the shard, and the seconds
that a Detector was busy with the image. Status is plain text here, because blocks from different workers are
put together before the column is encoded."""

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
"""`detections/`: one row a box."""

PROPOSALS = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("boxes", pa.list_(pa.field("element", pa.list_(pa.float32(), 4)))),
        pa.field("scores", pa.list_(pa.field("element", pa.float32()))),
    ]
)
"""Proposals: `boxes` xyxy in the image frame, best first; `scores` null where the proposer has none."""

BOXES = pa.list_(pa.list_(pa.field("item", pa.float32()), 4))
"""The boxes of one image, as the tables of proposals that we write have them."""

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
"""Proposals that training computed; boxes and sizes are null where `error` is not."""

PROPOSALS_EXPORT = PROPOSALS.append(pa.field("etag", pa.string())).append(
    pa.field("error", pa.string())
)
"""What an RPN proposes, on its way to its table. Rows with an error are not written; the ETag says which
images are done."""

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
    """File metadata of `scored/` and `detections/`: format version, classes (JSON), coordinates, model.

    Args:
        classes: K names; label k is classes[k - 1].
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
    """The file is whole, but this program is too old for it."""


def check_version(version: int, newest: int) -> None:
    """Refuse what no version of the program wrote, and what only a newer one can read.

    Args:
        version: of the format, as the file says.
        newest: what this program reads; it reads all older ones.

    Raises:
        NewerFormatError: `version` is above `newest`.
        ValueError: it is no version.
    """
    if version > newest:
        raise NewerFormatError(
            f"was written by a newer version of this program (format {version}, this one reads {newest})"
        )
    if version < 1:
        raise ValueError(f"format_version {version}")


def read_columns(file: pq.ParquetFile, wanted: Iterable[pa.Field]) -> pa.Table:
    """Read columns of one file; a column that it lacks and that may be null is null.

    Args:
        file: Parquet, of this or an older format. Columns that are not wanted are ignored.
        wanted: the columns to give, in this order.

    Raises:
        KeyError: a column that may not be null is not in the file.
    """
    fields = list(wanted)
    present = set(file.schema_arrow.names)
    lacking = [field.name for field in fields if field.name not in present and not field.nullable]
    if lacking:
        raise KeyError(f"no column {lacking[0]}")
    # With no column at all pyarrow forgets how many rows there are.
    some = [field.name for field in fields if field.name in present] or file.schema_arrow.names[:1]
    table = file.read(some)
    columns = [
        table[field.name] if field.name in present else pa.nulls(table.num_rows, field.type)
        for field in fields
    ]
    return pa.table(columns, names=[field.name for field in fields])


def image_keys(rows: pa.Table) -> Iterator[tuple[str, str | None]]:
    """(image_uri, etag) of each row: what one version of an image is known by."""
    return zip(rows["image_uri"].to_pylist(), rows["etag"].to_pylist(), strict=True)


def in_tables_of(rows: int, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of so many; the last table may have fewer."""
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
    """A whole Parquet file in memory: zstd, page checksums, `metadata` in its footer.

    In memory, because a file that is written piece by piece is published half-written when its writer fails.

    Raises:
        ValueError: a null in a column that is not nullable, which pyarrow would write without a word.
    """
    for field, column in zip(table.schema, table.columns, strict=True):
        if not field.nullable and column.null_count:
            raise ValueError(f"{column.null_count} nulls in column {field.name}, which has none")
    merged = {**(table.schema.metadata or {}), **metadata}
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(merged), sink, compression="zstd", write_page_checksum=True
    )
    return sink.getvalue()
