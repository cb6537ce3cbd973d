"""A storage is added by one class and one entry in STORES, as CONTRIBUTING.md says."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from PIL import Image

from pipeline import storage
from pipeline.errors import ObjectChanged, ObjectMissing, ObjectTooLarge, UserError
from pipeline.scoring.selection import select
from pipeline.storage import stores
from pipeline.storage.uris import ObjectInfo


class Shelf:
    """Objects in the memory of this process."""

    lists_in_order = True
    denied_advice = unreachable_advice = "Look at the shelf"
    kept: dict[str, bytes] = {}

    def __init__(self, scheme: str, root: str) -> None:
        self._root = root

    def stat(self, path: str, *, deadline_s: float) -> ObjectInfo:
        if path not in self.kept:
            raise ObjectMissing(f"{self._root}{path}: not on the shelf")
        data = self.kept[path]
        return ObjectInfo(self._root + path, hashlib.md5(data).hexdigest(), len(data))

    def check_bucket(self, path: str, *, deadline_s: float) -> None:
        """There is one shelf."""

    def iter_pages(
        self, prefix: str, *, deadline_s: float, ordered: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        paths = sorted(path for path in self.kept if path.startswith(prefix))
        yield [self.stat(path, deadline_s=deadline_s) for path in paths]

    def read(
        self, path: str, *, etag: str | None, max_bytes: int | None, deadline_s: float
    ) -> bytes:
        info = self.stat(path, deadline_s=deadline_s)
        if etag not in (None, info.etag):
            raise ObjectChanged(info.uri)
        if max_bytes is not None and info.size > max_bytes:
            raise ObjectTooLarge(info.uri)
        return self.kept[path]

    def write(self, path: str, data: bytes) -> None:
        self.kept[path] = data

    def create(self, path: str, data: bytes) -> bool:
        return self.kept.setdefault(path, data) is data

    def delete(self, path: str) -> None:
        self.kept.pop(path, None)

    def upload(self, local: Path, path: str) -> None:
        self.write(path, local.read_bytes())

    def download(self, path: str, local: Path, *, deadline_s: float) -> None:
        local.write_bytes(self.read(path, etag=None, max_bytes=None, deadline_s=deadline_s))

    def arrow_filesystem(self) -> pafs.FileSystem:
        raise AssertionError("nothing here asks for it")


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setattr(Shelf, "kept", {})
    monkeypatch.setattr(stores, "STORES", {**stores.STORES, "shelf": Shelf})
    stores._make_store.cache_clear()
    return Shelf.kept


def test_a_driver_whose_error_is_long_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pyarrow lists each folder where it looked for Hadoop's library: 1,500 characters."""

    def get_filesystem_class(scheme: str) -> type:
        raise OSError("Unable to load libjvm: " + "/usr/lib/jvm/libjvm.so: no such file\n" * 40)

    monkeypatch.setattr("fsspec.get_filesystem_class", get_filesystem_class)
    with pytest.raises(UserError) as refused:
        storage.list_objects("hdfs://namenode:8020/images")
    message = str(refused.value)
    assert message.startswith("hdfs://: has no storage driver (Unable to load libjvm")
    assert len(message) < 300
    assert "\n" not in message


def test_objects_of_a_new_storage_are_written_listed_and_read(shelf: dict[str, bytes]) -> None:
    storage.write_bytes("shelf://a/1", b"one")
    assert storage.create_bytes("shelf://a/2", b"two")
    assert not storage.create_bytes("shelf://a/2", b"three")
    storage.check_exclusive_create("shelf://out")
    assert [info.uri for info in storage.list_objects("shelf://a")] == [
        "shelf://a/1",
        "shelf://a/2",
    ]
    assert storage.read_bytes("shelf://a/2") == b"two"
    assert storage.exists("shelf://a/1")
    assert not storage.exists("shelf://a/3")
    assert storage.lists_in_order("shelf://a")
    storage.delete("shelf://a/1")
    assert not storage.exists("shelf://a/1")


def test_images_of_a_new_storage_are_selected(shelf: dict[str, bytes]) -> None:
    data = io.BytesIO()
    Image.new("RGB", (4, 3)).save(data, "PNG")
    storage.write_bytes("shelf://in/a.png", data.getvalue())
    storage.write_bytes("shelf://in/notes.txt", b"")
    selection = select("shelf://in")
    assert selection.num_images == 1
    selection.listed.close()


def test_an_error_of_a_new_storage_has_its_advice(
    shelf: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> ObjectInfo:
        raise ObjectTooLarge("shelf://a/1: fell down")

    monkeypatch.setattr(Shelf, "stat", unreachable)
    with pytest.raises(UserError, match="cannot be reached. Look at the shelf .*fell down"):
        storage.exists("shelf://a/1")
