"""The types of the tables are the same after writing and reading."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema

DETECTION = {
    "label": "café",
    "label_id": 3,
    "score": 0.5,
    "x_min": 0.0,
    "y_min": 1.5,
    "x_max": 2.0,
    "y_max": 3.0,
}
ROW = {
    "image_uri": "s3://b/a b%20.jpg",
    "etag": "0f",
    "size_bytes": 2**40,
    "width": 640,
    "height": 480,
    "status": "ok",
    "error": None,
    "model_id": "m",
    "run_id": "r",
    "scored_at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "num_proposals": 2000,
    "num_detections": 1,
    "detections": [DETECTION],
    "generation": 2,
    "num_tiles": 4,
}
BAD_ROW = dict.fromkeys(ROW) | {"image_uri": "s3://b/x", "status": "missing", "error": "gone"}


def round_trip(table: pa.Table, metadata: dict[bytes, bytes] | None = None) -> pa.Table:
    return pq.read_table(io.BytesIO(schema.encode_parquet(table, metadata=metadata or {})))


def test_scored_rows_are_equal_after_writing_and_reading() -> None:
    table = pa.Table.from_pylist([ROW, BAD_ROW], schema=schema.SCORED)
    back = round_trip(table)
    assert back.schema.equals(schema.SCORED)
    assert back.to_pylist() == [ROW, BAD_ROW]


@pytest.mark.parametrize("name", ["SCORED", "DETECTIONS", "PROPOSALS", "PLAN"])
def test_a_table_without_rows_has_the_same_types(name: str) -> None:
    wanted: pa.Schema = getattr(schema, name)
    assert round_trip(wanted.empty_table()).schema.equals(wanted)


def test_scored_without_detections_has_the_same_types() -> None:
    empty = ROW | {"detections": [], "num_detections": 0}
    for row in (empty, BAD_ROW):
        assert round_trip(pa.Table.from_pylist([row], schema=schema.SCORED)).schema == schema.SCORED


def test_columns_are_those_of_the_contract() -> None:
    assert [(f.name, str(f.type), f.nullable) for f in schema.SCORED] == [
        ("image_uri", "string", False),
        ("etag", "string", True),
        ("size_bytes", "int64", True),
        ("width", "int32", True),
        ("height", "int32", True),
        ("status", "dictionary<values=string, indices=int32, ordered=0>", False),
        ("error", "string", True),
        ("model_id", "string", True),
        ("run_id", "string", True),
        ("scored_at", "timestamp[us, tz=UTC]", True),
        ("num_proposals", "int32", True),
        ("num_detections", "int32", True),
        (
            "detections",
            "list<element: struct<label: string, label_id: int16, score: float, x_min: float,"
            " y_min: float, x_max: float, y_max: float>>",
            True,
        ),
        ("generation", "int32", True),
        ("num_tiles", "int32", True),
    ]
    assert [(f.name, str(f.type)) for f in schema.DETECTIONS] == [
        ("image_uri", "string"),
        ("detection", "int16"),
        ("label", "string"),
        ("label_id", "int16"),
        ("score", "float"),
        ("x_min", "float"),
        ("y_min", "float"),
        ("x_max", "float"),
        ("y_max", "float"),
        ("model_id", "string"),
    ]


def test_proposals_are_equal_after_writing_and_reading() -> None:
    rows = [
        {"image_uri": "a", "boxes": [[0, 0, 1.5, 2], [3, 4, 5, 6]], "scores": [0.75, 0.5]},
        {"image_uri": "b", "boxes": [], "scores": None},
    ]
    table = pa.Table.from_pylist(rows, schema=schema.PROPOSALS)
    assert round_trip(table).to_pylist() == rows


def test_metadata_names_format_classes_coordinates_and_model() -> None:
    metadata = schema.scored_metadata(("dog", "café"), "0123")
    table = pa.Table.from_pylist([ROW], schema=schema.SCORED)
    found = round_trip(table, metadata).schema.metadata
    assert json.loads(found[b"classes"]) == ["dog", "café"]
    assert int(found[b"format_version"]) == schema.TABLE_VERSION
    assert found[b"model_id"] == b"0123"
    assert found[b"coordinates"].startswith(b"xyxy, absolute pixels")


def test_a_column_that_a_file_lacks_is_null() -> None:
    old = pa.Table.from_pylist([ROW, BAD_ROW], schema=schema.SCORED).select(schema.FIRST_COLUMNS)
    with pq.ParquetFile(io.BytesIO(schema.encode_parquet(old, metadata={}))) as file:
        table = schema.read_columns(file, schema.SCORED)
        assert table.cast(schema.SCORED).to_pylist() == [
            row | {"generation": None, "num_tiles": None} for row in (ROW, BAD_ROW)
        ]
        lacking = [schema.SCORED.field(name) for name in ("num_tiles", "generation")]
        assert (
            schema.read_columns(file, lacking).to_pylist()
            == [{"num_tiles": None, "generation": None}] * 2
        )


def test_unknown_columns_of_a_newer_file_are_ignored() -> None:
    table = pa.Table.from_pylist([ROW], schema=schema.SCORED).append_column("x", pa.array([1]))
    with pq.ParquetFile(io.BytesIO(schema.encode_parquet(table, metadata={}))) as file:
        assert schema.read_columns(file, schema.SCORED).column_names == schema.SCORED.names


def test_a_file_without_a_column_that_is_not_nullable_is_refused() -> None:
    table = pa.Table.from_pylist([ROW], schema=schema.SCORED).drop_columns(["status"])
    with pq.ParquetFile(io.BytesIO(schema.encode_parquet(table, metadata={}))) as file:
        with pytest.raises(KeyError, match="no column status"):
            schema.read_columns(file, schema.SCORED)


def test_the_first_columns_stay_the_first() -> None:
    """Columns are only added at the end, so runs of version 1 can continue."""
    assert len(schema.FIRST_COLUMNS) == 13
    assert schema.FIRST_COLUMNS[-1] == "detections"
    assert all(schema.SCORED.field(name).nullable for name in schema.SCORED.names[13:])


def test_pages_are_compressed_and_have_checksums() -> None:
    table = pa.Table.from_pylist([ROW] * 1000, schema=schema.SCORED)
    data = schema.encode_parquet(table, metadata={})
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    at = (column.dictionary_page_offset or column.data_page_offset) + 40
    damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(OSError, match="CRC|checksum"):
        pq.read_table(io.BytesIO(damaged), page_checksum_verification=True)


def test_a_null_in_a_column_that_is_not_nullable_is_refused() -> None:
    table = pa.Table.from_pylist([ROW | {"status": None}], schema=schema.SCORED)
    with pytest.raises(ValueError, match="status"):
        schema.encode_parquet(table, metadata={})


def test_tables_are_regrouped_to_a_number_of_rows() -> None:
    """7 + 0 + 1 + 5 rows in threes: 13 = 4 * 3 + 1."""
    numbers = iter(range(13))
    tables = [pa.table({"n": [next(numbers) for _ in range(size)]}) for size in (7, 1, 5)]
    tables.insert(1, tables[0].slice(7))
    cut = [table["n"].to_pylist() for table in schema.in_tables_of(3, tables)]
    assert cut == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12]]


def test_no_rows_give_no_table() -> None:
    assert list(schema.in_tables_of(3, [])) == []
    assert list(schema.in_tables_of(3, [schema.PLAN.empty_table()])) == []
