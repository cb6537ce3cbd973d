"""Reading S3 Inventory's files, made as its documentation describes them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from pipeline import storage
from pipeline.errors import UserError
from pipeline.schema import NAMED
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
    listed = selection.listed.first(9)
    assert listed.select(NAMED.names).to_pylist() == [
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
        ({"files": [{"key": 5}]}, "must be texts"),
        ({"fileSchema": None}, "must be texts"),
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


@pytest.mark.parametrize("layout", ["bucket", "keys", "beside", "synced"])
def test_a_local_copy_of_an_inventory_is_read_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """The images lie in S3 all the same."""
    data, key = as_csv(), "inv/photos/daily/data/1.csv.gz"
    day = tmp_path / "daily" / "2026-11-01T01-00Z"
    place = {
        "bucket": day / "lists" / key,
        "keys": day / key,
        "beside": day / "data" / "1.csv.gz",
        "synced": day.parent / "data" / "1.csv.gz",
    }[layout]
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    day.mkdir(exist_ok=True)
    described = {
        "destinationBucket": "arn:aws:s3:::lists",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag",
        "files": [{"key": key, "MD5checksum": hashlib.md5(data).hexdigest()}],
    }
    (day / "manifest.json").write_text(json.dumps(described))
    monkeypatch.chdir(day)
    for uri in ("manifest.json", "./manifest.json", str(day / "manifest.json")):
        selection = select(uri)
        assert selection.listed.first(9)["image_uri"].to_pylist() == [
            "s3://photos/a b+c.jpg",
            "s3://photos/caf\u00e9/100%.JPG",
        ]
        selection.listed.close()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (gzip.compress(b'"photos","a.jpg"\n', mtime=0), "line 1: has 2 cells, expected 7"),
        (as_csv()[:-9], "is not a readable data file"),
        (b"\x1f\x8bxx", "is not a readable data file"),
    ],
)
def test_a_damaged_data_file_is_refused_with_its_name(bucket: str, data: bytes, why: str) -> None:
    entry = {"key": "data/1.csv.gz"}
    storage.write_bytes(f"{bucket}/data/1.csv.gz", data)
    with pytest.raises(UserError, match=rf"data/1\.csv\.gz.*{why}"):
        select(publish(bucket, "CSV", files=[entry]))


def test_a_json_that_describes_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(UserError, match="is not the manifest of an S3 Inventory"):
        select(str(tmp_path / "manifest.json"))


def test_a_manifest_of_json_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not the manifest of an S3 Inventory"):
        select(str(tmp_path / "manifest.json"))


def test_a_data_file_with_damaged_blocks_is_refused(tmp_path: Path) -> None:
    keys = [f"{n}.jpg" for n in range(9999)]
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"bucket": ["photos"] * len(keys), "key": keys}), path)
    data = bytearray(path.read_bytes())
    data[-40000:-39000] = b"\xff" * 1000
    path.write_bytes(data)
    described = {
        "destinationBucket": "arn:aws:s3:::inv",
        "fileFormat": "Parquet",
        "fileSchema": "",
        "files": [{"key": "data.parquet"}],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="is not a readable data file of an inventory"):
        select(str(tmp_path / "manifest.json"))
