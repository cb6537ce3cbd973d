"""Reading S3 Inventory's files, made as its documentation describes them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from pipeline import storage
from pipeline.errors import UserError
from pipeline.scoring.selection import select

ROWS = [
    # bucket, key, size, ETag, is it the newest version, is it a delete marker
    ("photos", "a b+c.jpg", 5, "e1", True, False),
    ("photos", "caf\u00e9/100%.JPG", 7, "e2", True, False),
    ("photos", "a b+c.jpg", 4, "e0", False, False),
    ("photos", "gone.jpg", None, None, True, True),
    ("photos", "notes.txt", 3, "e3", True, False),
]
ENCODED = ["a+b%2Bc.jpg", "caf%C3%A9/100%25.JPG", "a+b%2Bc.jpg", "gone.jpg", "notes.txt"]


def as_csv() -> bytes:
    lines = []
    for key, (bucket, _, size, etag, new, gone) in zip(ENCODED, ROWS, strict=True):
        values = (bucket, key, "v", str(new).lower(), str(gone).lower(), size or "", etag or "")
        lines.append(",".join(f'"{value}"' for value in values))
    return gzip.compress("\n".join(lines).encode())


def as_table() -> pa.Table:
    names = ["bucket", "key", "size", "e_tag", "is_latest", "is_delete_marker"]
    return pa.table(dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True)))


def data_file(kind: str) -> bytes:
    sink = io.BytesIO()
    if kind == "CSV":
        return as_csv()
    if kind == "Parquet":
        pq.write_table(as_table(), sink)
    else:
        orc.write_table(as_table(), sink)
    return sink.getvalue()


def publish(bucket: str, kind: str, **changes: Any) -> str:
    data, key = data_file(kind), "inv/photos/daily/data/1"
    storage.write_bytes(f"{bucket}/{key}", data)
    described = {
        "sourceBucket": "photos",
        "destinationBucket": f"arn:aws:s3:::{bucket[5:]}",
        "fileFormat": kind,
        "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag",
        "files": [{"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}],
    }
    uri = f"{bucket}/inv/photos/daily/2026-11-01T01-00Z/manifest.json"
    storage.write_bytes(uri, json.dumps(described | changes).encode())
    return uri


@pytest.mark.parametrize("kind", ["CSV", "Parquet", "ORC"])
def test_the_newest_versions_are_selected_with_etag_and_size(bucket: str, kind: str) -> None:
    selection = select(publish(bucket, kind))
    assert selection.listed.first(9).to_pylist() == [
        {"image_uri": "s3://photos/a b+c.jpg", "etag": "e1", "size_bytes": 5},
        {"image_uri": "s3://photos/caf\u00e9/100%.JPG", "etag": "e2", "size_bytes": 7},
    ]
    assert selection.left_out == {"without an image suffix": 1}


def test_a_data_file_with_another_md5_than_in_the_manifest_is_refused(bucket: str) -> None:
    uri = publish(bucket, "CSV")
    storage.write_bytes(f"{bucket}/inv/photos/daily/data/1", as_csv()[:-1])
    with pytest.raises(UserError, match="has the MD5"):
        select(uri)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"fileFormat": "XLS"}, "is not the manifest of an S3 Inventory"),
        ({"files": None}, "is not the manifest of an S3 Inventory"),
        (
            {"fileSchema": "Bucket, Name, VersionId, IsLatest, IsDeleteMarker, Size, ETag"},
            "no column key",
        ),
    ],
)
def test_a_file_that_is_no_inventory_is_refused(
    bucket: str, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        select(publish(bucket, "CSV", **change))


def test_an_inventory_that_is_not_json_is_refused(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/x/manifest.json", b"<html>")
    with pytest.raises(UserError, match=r"manifest\.json"):
        select(f"{bucket}/x/manifest.json")
