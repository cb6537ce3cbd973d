"""Uploading files of any size in one step."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.storage import StorageError, s3


@pytest.fixture(params=["s3", "local", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A URI in each kind of storage, in a folder that does not exist yet."""
    if request.param == "s3":
        yield request.getfixturevalue("bucket") + "/place/a b.parquet"
    elif request.param == "local":
        yield str(tmp_path / "place" / "a b.parquet")
    else:
        yield "memory://place/a b.parquet"
        MemoryFileSystem.store.clear()


def test_an_uploaded_file_replaces_the_old_object(target: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"first", b"second, longer"):
        path.write_bytes(data)
        storage.upload_file(path, target)
        assert storage.read_bytes(target) == data
    assert len(storage.list_objects(target.rpartition("/")[0])) == 1


def test_a_file_in_many_parts_arrives_whole(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)  # the smallest part that S3 accepts
    path = tmp_path / "file"
    path.write_bytes(random.Random(0).randbytes(11 * 2**20 + 7))
    storage.upload_file(path, f"{bucket}/large")
    assert storage.read_bytes(f"{bucket}/large") == path.read_bytes()


def test_a_failed_upload_keeps_the_old_object_and_leaves_no_parts(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_client: Any
) -> None:
    storage.write_bytes(f"{bucket}/large", b"old")
    monkeypatch.setattr(s3, "PART_BYTES", 2**20)  # S3 refuses to join such small parts
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * 2**20))
    with pytest.raises(StorageError, match="EntityTooSmall"):
        storage.upload_file(path, f"{bucket}/large")
    assert storage.read_bytes(f"{bucket}/large") == b"old"
    name = bucket.removeprefix("s3://")
    assert not s3_client.list_multipart_uploads(Bucket=name).get("Uploads")
