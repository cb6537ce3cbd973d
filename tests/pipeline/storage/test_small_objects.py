"""Small objects arrive as they were listed, or are read in the way that decides on errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline import storage
from pipeline.errors import ObjectMissing
from pipeline.runtime.prefetch import in_threads
from pipeline.storage.small_objects import SmallObjects
from tests.fault_proxy import FaultyProxy, serving


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy that is the S3 endpoint of this process."""
    with serving(FaultyProxy(s3)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def listed(bucket: str, proxy: FaultyProxy, **objects: bytes) -> list[storage.ObjectInfo]:
    for key, data in objects.items():
        storage.write_bytes(f"{bucket}/{key}", data)
    infos = storage.list_objects(f"{bucket}/")
    proxy.requests.clear()
    return infos


def test_each_object_is_read_by_one_request(bucket: str, proxy: FaultyProxy) -> None:
    infos = listed(bucket, proxy, **{f"k{number:02d}": bytes([number]) for number in range(40)})
    assert in_threads(storage.read_listed, infos) == [bytes([number]) for number in range(40)]
    assert proxy.requests == ["GET pass"] * 40


@pytest.mark.parametrize("fault", ["503", "reset", "lost", "short", "shortened", "flip"])
def test_an_object_that_does_not_arrive_as_listed_is_read_again(
    bucket: str, proxy: FaultyProxy, fault: str
) -> None:
    infos = listed(bucket, proxy, a=b"abcdefgh" * 1000, b=b"b")
    proxy.faults = [fault, fault]
    assert storage.read_listed(infos[0]) == b"abcdefgh" * 1000
    assert proxy.requests == [f"GET {fault}", f"GET {fault}", "GET pass"]
    assert storage.read_listed(infos[1]) == b"b"
    assert len(proxy.requests) == 4


def test_an_object_that_was_replaced_is_read_as_it_is_now(bucket: str, proxy: FaultyProxy) -> None:
    (info,) = listed(bucket, proxy, a=b"old")
    storage.write_bytes(info.uri, b"newer")
    assert storage.read_listed(info) == b"newer"


def test_an_object_that_was_deleted_is_missing(bucket: str, proxy: FaultyProxy) -> None:
    (info,) = listed(bucket, proxy, a=b"old")
    storage.delete(info.uri)
    with pytest.raises(ObjectMissing):
        storage.read_listed(info)


@pytest.mark.parametrize(
    "key", ["a b.xml", "ü/ß.txt", "a%20b", "a//b", "x/../y", "a?b=c#d", "~+@(1),=.txt"]
)
def test_a_key_of_any_letters_is_read(bucket: str, proxy: FaultyProxy, key: str) -> None:
    decoy = key.replace("%20", " ").replace("//", "/")
    storage.write_bytes(f"{bucket}/{decoy}", b"decoy")
    storage.write_bytes(f"{bucket}/{key}", b"this one")
    infos = {info.uri: info for info in storage.list_objects(f"{bucket}/")}
    assert storage.read_listed(infos[f"{bucket}/{key}"]) == b"this one"


def test_without_credentials_the_error_is_that_of_every_read(
    bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (info,) = listed(bucket, proxy, a=b"a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(storage.StorageError, match="[Cc]redentials"):
        storage.read_listed(info)


def test_public_buckets_are_read_without_a_signature(
    bucket: str, s3_client: Any, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (info,) = listed(bucket, proxy, a=b"a")
    s3_client.put_object_acl(Bucket=bucket.removeprefix("s3://"), Key="a", ACL="public-read")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert storage.read_listed(info) == b"a"
    assert proxy.requests == ["GET pass"]


def reader(s3: str) -> SmallObjects:
    from pipeline.storage.s3_client import filesystem

    signing = filesystem(anonymous=False)
    return SmallObjects(lambda: signing, (5, 30))


def patient(calls: list[int], data: bytes) -> Callable[[], bytes]:
    def read() -> bytes:
        calls.append(1)
        return data

    return read


def test_a_store_that_obstore_cannot_read_is_left_to_botocore(
    bucket: str, s3: str, proxy: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (info,) = listed(bucket, proxy, a=b"a")
    unlike, calls = replace(info, etag="another"), list[int]()
    one = reader(s3)
    for _ in range(5):
        one.read(f"{bucket.removeprefix('s3://')}/a", unlike, patient(calls, b"a"))
    assert len(calls) == 5
    assert len(proxy.requests) == 3
    assert "obstore cannot read this store; reading with botocore" in caplog.text


def test_an_etag_that_is_no_md5_is_learned_from_one_object(
    bucket: str, s3: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (info,) = listed(bucket, proxy, a=b"a")
    one, calls = reader(s3), list[int]()
    monkeypatch.setattr("hashlib.md5", lambda *_, **__: __import__("hashlib").sha1(b"other"))
    for _ in range(3):
        assert one.read(f"{bucket.removeprefix('s3://')}/a", info, patient(calls, b"a")) == b"a"
    assert len(calls) == 1
