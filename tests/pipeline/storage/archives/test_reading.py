"""Neighbours are read with one request, of the archive that was planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastrcnn.config import ProposalConfig
from pipeline import storage
from pipeline.errors import (
    MemberUndecodable,
    ObjectChanged,
    ObjectMissing,
    ObjectUnreadable,
    UserError,
)
from pipeline.proposals.candidate import ReadSettings
from pipeline.proposals.reading import read_chunks, unplanned
from pipeline.runtime.child_process import ChildProcess
from pipeline.scoring.selection import select
from pipeline.storage.archives import parquet
from pipeline.storage.archives.reading import SPAN_BYTES, spans
from tests.fault_proxy import FaultyProxy, serving
from tests.pipeline.storage.archives.hostile import BODY, parquet_of, tar_of, zip_of

SETTINGS = ReadSettings(proposals=ProposalConfig(name="grid"))


def row(name: str, offset: int, length: int, archive: str = "x.tar") -> dict[str, Any]:
    uri = f"tar://{name}::s3://b/{archive}"
    place = {"offset": offset, "length": length, "compression": None, "problem": None}
    return {"image_uri": uri, "etag": "e", "size_bytes": length} | place


def test_a_span_ends_at_its_size_at_a_gap_and_at_the_archive() -> None:
    rows = [row("a", 0, 100), row("b", 512, 100), row("c", 3 * 2**20, 100)]
    rows += [row("d", 3 * 2**20 + 512, SPAN_BYTES), row("e", 0, 9, "y.tar")]
    found = [(span.first, span.length, len(span.rows)) for span in spans(rows, 2**40)]
    assert found == [
        (0, 612, 2),
        (3 * 2**20, 100, 1),
        (3 * 2**20 + 512, SPAN_BYTES, 1),
        (0, 9, 1),
    ]


def test_members_above_max_bytes_are_not_read() -> None:
    assert spans([row("a", 0, 101)], max_bytes=100) == []


def test_three_hundred_members_take_two_requests(
    bucket: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a hundred images take less than one request."""
    storage.write_bytes(f"{bucket}/x.tar", tar_of(*((f"{n:03d}.jpg", BODY) for n in range(300))))
    with serving(FaultyProxy(s3)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        planned = unplanned(select(f"{bucket}/x.tar").listed.first(1000))
        indexed = len(proxy.requests)
        proxy.faults = ["503"]  # a failed request is repeated as for objects
        chunks = list(read_chunks(planned, SETTINGS, max_images=32))
        read = len(proxy.requests) - indexed
    assert sum(chunk.num_rows for chunk in chunks) == 300
    assert {s for chunk in chunks for s in chunk["status"].to_pylist()} == {
        "undecodable"
    }  # no JPEGs
    assert indexed <= 5
    assert read == 2


def test_a_member_of_an_archive_that_changed_is_changed(bucket: str) -> None:
    uri = f"{bucket}/x.tar"
    storage.write_bytes(uri, tar_of(("a.jpg", BODY)))
    planned = unplanned(select(uri).listed.first(9))
    storage.write_bytes(uri, tar_of(("a.jpg", BODY), ("b.jpg", BODY)))
    (chunk,) = read_chunks(planned, SETTINGS, max_images=8)
    assert chunk["status"].to_pylist() == ["changed"]


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
def test_one_member_is_opened_by_its_uri(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    made = {
        "tar": tar_of(("a.jpg", BODY)),
        "zip": zip_of(("a.jpg", BODY)),
        "parquet": parquet_of([BODY]),
    }
    path.write_bytes(made[kind])
    uri = f"{kind}://{'0' if kind == 'parquet' else 'a.jpg'}::{path}"
    assert storage.read_bytes(uri) == BODY
    info = storage.stat(uri)
    assert (info.etag, info.uri) == (storage.stat(str(path)).etag, uri)
    with pytest.raises(ObjectMissing, match="no such member"):
        storage.read_bytes(f"{kind}://b.jpg::{path}")
    with pytest.raises(ObjectChanged):
        storage.read_bytes(uri, etag="another")
    with pytest.raises(UserError, match="nothing is written there"):
        storage.write_bytes(uri, b"x")


def test_the_scheme_must_be_that_of_the_archive(tmp_path: Path) -> None:
    with pytest.raises(ObjectUnreadable, match="no .zip"):
        storage.read_bytes(f"zip://a.jpg::{tmp_path}/x.tar")


def test_a_crash_of_the_parquet_process_costs_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet_of([BODY]))
    uri = f"parquet://0::{path}"
    assert storage.read_bytes(uri) == BODY
    assert parquet._child is not None
    parquet._child._process.kill()
    assert storage.read_bytes(uri) == BODY  # another process was started
    parquet._child._process.kill()
    parquet._child._process.wait()  # this time it is known to be dead before it is asked
    assert storage.read_bytes(uri) == BODY
    code = (
        "import os, sys; os.write(1, bytes(4)); sys.stdin.buffer.read(4); os.kill(os.getpid(), 11)"
    )
    monkeypatch.setattr(parquet, "ChildProcess", lambda _, what: ChildProcess(code, what))
    parquet._end()
    with pytest.raises(MemberUndecodable, match="its Parquet process died of signal 11"):
        storage.read_bytes(uri)
    parquet._end()
