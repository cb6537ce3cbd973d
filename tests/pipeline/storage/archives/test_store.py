"""Members that are named by chained URIs: an archive is listed once, and links are followed."""

from __future__ import annotations

import pickle
import subprocess
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import ObjectMissing
from pipeline.runtime.shared import Shared
from pipeline.scoring.selection import select
from pipeline.storage.archives import listed
from pipeline.storage.archives.index import Archive, index
from pipeline.storage.archives.listed import listings_of, remember
from pipeline.storage.archives.reading import read_member
from pipeline.storage.chains import member_part
from tests.fault_proxy import FaultyProxy, serving
from tests.pipeline.storage.archives.hostile import BODY, link, parquet_of, tar_of, zip_of
from tests.pipeline.storage.archives.odd import large_zip


def body(number: int) -> bytes:
    return BODY + b"%d" % number


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
def test_many_threads_list_an_archive_once_and_then_read_with_one_request(
    kind: str, bucket: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(n) if kind == "parquet" else f"{n}.jpg" for n in range(40)]
    members = [(name, body(n)) for n, name in enumerate(names)]
    made = {
        "tar": lambda: tar_of(*members),
        "zip": lambda: zip_of(*members),
        "parquet": lambda: parquet_of([data for _, data in members], rows=40),
    }
    uri = f"{bucket}/x.{kind}"
    storage.write_bytes(uri, made[kind]())
    uris = [f"{kind}://{name}::{uri}" for name in names]
    with serving(FaultyProxy(s3)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with ThreadPoolExecutor(16) as threads:
            read = [*threads.map(storage.read_bytes, uris)]
        first = len(proxy.requests)
        storage.read_bytes(uris[0])
        again = len(proxy.requests) - first
    assert read == [data for _, data in members]
    # The first request of each thread asks for the ETag; the list is one or two, and the footer of Parquet.
    assert first <= 40 + 16 + 5
    assert again == 1


def test_another_process_may_give_its_list(
    bucket: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{bucket}/x.tar", tar_of(*((f"{n}.jpg", body(n)) for n in range(9))))
    storage.write_bytes(f"{bucket}/y.tar", tar_of(("0.jpg", body(0))))
    uris = [f"tar://{n}.jpg::{bucket}/x.tar" for n in range(9)]
    storage.read_bytes(uris[0])
    listings = listings_of([*uris, f"tar://0.jpg::{bucket}/y.tar", f"{bucket}/z.jpg"])
    assert [listing.archive.uri for listing in listings] == [f"{bucket}/x.tar"]
    monkeypatch.setattr(listed, "_listed", Shared(100, len))  # as in another process
    monkeypatch.setattr(listed, "_etags", {})
    with serving(FaultyProxy(s3)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        remember(pickle.loads(pickle.dumps(listings)))
        assert [storage.read_bytes(uri) for uri in uris] == [body(n) for n in range(9)]
        assert len(proxy.requests) == 9
        storage.write_bytes(f"{bucket}/x.tar", tar_of(("8.jpg", body(99))))
        assert storage.read_bytes(uris[8]) == body(99)


def test_lists_that_a_process_no_longer_keeps_are_left_out(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists that another process would not keep are left out too. Nothing is listed again."""
    monkeypatch.setattr(listed, "_listed", Shared(25, len))
    monkeypatch.setattr(listed, "MEMBERS_KEPT", 15)
    uris = []
    for number in range(4):
        archive = f"{bucket}/{number}.tar"
        storage.write_bytes(archive, tar_of(*((f"{n}.jpg", body(n)) for n in range(10))))
        uris.append(f"tar://0.jpg::{archive}")
        storage.read_bytes(uris[-1])
    monkeypatch.setattr(listed, "index", None)  # a list that is made again fails the test
    kept = [listing.archive.uri for listing in listings_of(uris)]
    assert kept == [f"{bucket}/2.tar"]  # the last two of 25 members are kept, and one of them fits


def test_each_of_many_archives_is_listed_once(
    bucket: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a training, which reads images of all tars in random order."""
    uris = [f"tar://a.jpg::{bucket}/{n}.tar" for n in range(9)]
    for number in range(9):
        storage.write_bytes(f"{bucket}/{number}.tar", tar_of(("a.jpg", body(number))))
    with serving(FaultyProxy(s3)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for uri in uris:
            storage.read_bytes(uri)
        before = len(proxy.requests)
        assert [storage.read_bytes(uri) for uri in uris] == [body(n) for n in range(9)]
        assert len(proxy.requests) - before == 9


def test_an_archive_that_was_written_again_is_listed_again(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    uri = f"tar://a.jpg::{path}"
    path.write_bytes(tar_of(("a.jpg", body(1))))
    assert storage.read_bytes(uri) == body(1)
    path.write_bytes(tar_of(("b.jpg", BODY), ("a.jpg", body(2))))
    assert storage.read_bytes(uri) == body(2)
    path.write_bytes(tar_of(("b.jpg", BODY)))
    with pytest.raises(ObjectMissing, match="no such member"):
        storage.read_bytes(uri)
    path.unlink()
    with pytest.raises(ObjectMissing):
        storage.read_bytes(f"tar://b.jpg::{path}")


HARD, SYMBOLIC = tarfile.LNKTYPE, tarfile.SYMTYPE
LINKED = {
    "a hard link keeps the file that it was made for": (
        [("a.jpg", body(1)), link("b.jpg", "a.jpg", HARD), ("a.jpg", body(2))],
        {"a.jpg": body(2), "b.jpg": body(1)},
    ),
    "a symbolic link leads to the file of the end": (
        [("a.jpg", body(1)), link("b.jpg", "a.jpg", SYMBOLIC), ("a.jpg", body(2))],
        {"a.jpg": body(2), "b.jpg": body(2)},
    ),
    "a hard link to itself is the file before it": (
        [("a.jpg", body(1)), ("a.jpg", body(2)), link("a.jpg", "a.jpg", HARD)],
        {"a.jpg": body(2)},
    ),
    "a hard link to a hard link": (
        [("a.jpg", body(1)), link("b.jpg", "a.jpg", HARD), link("c.jpg", "b.jpg", HARD)],
        {"a.jpg": body(1), "b.jpg": body(1), "c.jpg": body(1)},
    ),
    "a hard link to a symbolic link": (
        [("a.jpg", body(1)), link("b.jpg", "a.jpg", SYMBOLIC), link("c.jpg", "b.jpg", HARD)],
        {"a.jpg": body(1), "b.jpg": body(1), "c.jpg": body(1)},
    ),
    "a file takes the place of a link": (
        [("a.jpg", body(1)), link("b.jpg", "a.jpg", HARD), ("b.jpg", body(3))],
        {"a.jpg": body(1), "b.jpg": body(3)},
    ),
}


@pytest.mark.parametrize("what", LINKED)
def test_links_are_what_tar_unpacks(what: str, tmp_path: Path) -> None:
    members, expected = LINKED[what]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of(*members))
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", path], cwd=tmp_path / "out", check=True)
    unpacked = {name: (tmp_path / "out" / name).read_bytes() for name in expected}
    assert unpacked == expected
    selection = select(str(path))
    rows = selection.listed.first(9).to_pylist()
    selection.listed.close()
    planned = {member_part(r["image_uri"]): read_member(r, max_bytes=10**6) for r in rows}
    assert planned == expected
    assert {name: storage.read_bytes(f"tar://{name}::{path}") for name in expected} == expected


def test_the_list_of_a_zip_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    count = 20_000
    path.write_bytes(large_zip(count))
    archive = Archive(uri=str(path), etag=None, size=None)
    tracemalloc.start()
    try:
        found = sum(table.num_rows for table in index(archive))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == count
    # A window of 8 MB at most, a table of 10,000 rows, and the places.
    assert peak < 8e6 + 10_000 * 600 + count * 40
