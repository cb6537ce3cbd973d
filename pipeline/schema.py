"""Columns and Arrow schemas of every table we write.

They are explicit, so that a file without boxes has the same types as one with. List elements are named
`element` and dictionary indices are int32, because that is what Parquet gives back: what is read equals what
was written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

TABLE_VERSION = 1
"""Format of the tables; part of `run_id`, so tables of two formats never mix."""

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
    ]
)
"""`scored/`: one row a planned image and run; `detections` by falling score."""

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

PLAN = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("shard", pa.int64(), nullable=False),
    ]
)
"""`plans/`: what is to be scored, and the shard each image belongs to."""


def scored_metadata(classes: Sequence[str], model_id: str) -> dict[bytes, bytes]:
    """File metadata of `scored/` and `detections/`: format version, classes (JSON), coordinates, model."""
    return {
        b"format_version": str(TABLE_VERSION).encode(),
        b"classes": json.dumps(list(classes), ensure_ascii=False).encode(),
        b"coordinates": COORDINATES.encode(),
        b"model_id": model_id.encode(),
    }


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
