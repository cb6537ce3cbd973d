"""Threads write the shards; an error in a thread is raised where rows are added."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline import record, storage
from pipeline.errors import JobError
from pipeline.record import committer as module
from tests.pipeline.record_cases import RUN, committer, done_shards, planned, result, rows_of


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path)


def test_add_returns_while_shards_are_still_being_written(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = planned(output, 9)
    slow, create = threading.Event(), storage.create_bytes

    def wait(uri: str, data: bytes) -> bool:
        assert slow.wait(30)
        return create(uri, data)

    monkeypatch.setattr(storage, "create_bytes", wait)
    writer = committer(output, work)
    writer.add(result(rows_of(work, [0, 1])))  # returns before either shard is written
    assert done_shards(output, RUN, work) == set()
    slow.set()
    writer.add(result(rows_of(work, [2])))
    writer.close()
    assert done_shards(output, RUN, work) == {0, 1, 2}


def test_few_whole_shards_wait_in_memory(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = planned(output, 3 * 40)
    most, lock, create = 0, threading.Lock(), storage.create_bytes
    writer = committer(output, work)

    def count(uri: str, data: bytes) -> bool:
        nonlocal most
        with lock:
            most = max(most, len(writer._puts))
        return create(uri, data)

    monkeypatch.setattr(storage, "create_bytes", count)
    for shard in range(work.num_shards):
        writer.add(result(rows_of(work, [shard])))
    writer.close()
    assert 0 < most <= module._PUTS_WAITING + 1


def test_a_failed_put_is_raised_and_the_other_shards_are_written(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = planned(output, 9)
    create, added, written = storage.create_bytes, threading.Event(), threading.Event()

    def fail_one(uri: str, data: bytes) -> bool:
        if uri.endswith("00000001.parquet"):
            # Without this wait the put may fail before `add` returns, and `add` would raise the error.
            assert added.wait(60)
            assert written.wait(60)
            raise storage.ObjectUnreadable(f"{uri}: disk full")
        made = create(uri, data)
        if uri.endswith("00000002.parquet"):
            written.set()
        return made

    monkeypatch.setattr(storage, "create_bytes", fail_one)
    writer = committer(output, work)
    writer.add(result(rows_of(work)))
    added.set()
    with pytest.raises(storage.ObjectUnreadable, match="disk full"):
        writer.close()
    assert done_shards(output, RUN, work) == {0, 2}


def test_a_row_with_another_etag_than_the_plan_is_refused(output: str) -> None:
    work = planned(output, 3)
    rows = result(rows_of(work))
    etags = rows["etag"].to_pylist()
    place = rows.schema.get_field_index("etag")
    writer = committer(output, work)
    writer.add(rows.set_column(place, "etag", [["other", *etags[1:]]]))
    with pytest.raises(JobError, match="not the 3 planned images"):
        writer.flush()


def test_a_damaged_shard_of_another_driver_fails_the_job(output: str) -> None:
    """It appeared after the checks at the start. Exit code 1: workers have started."""
    work = planned(output, 3)
    uri = record.shard_uri(output, RUN, 0)
    storage.write_bytes(uri, b"PAR1")
    writer = committer(output, work)
    writer.add(result(rows_of(work)))
    with pytest.raises(JobError, match="shard 0 is not a whole Parquet file"):
        writer.close()


def test_a_shard_names_its_plan_its_number_and_its_writing(output: str) -> None:
    work = planned(output, 6)
    names = []
    for run_id in (RUN, "f" * 16):
        writer = committer(output, work, run_id=run_id)
        writer.add(result(rows_of(work)))
        writer.close()
        for made in writer.shards:
            with record.open_shard(record.shard_uri(output, run_id, made.shard)) as (file, _, _):
                metadata = file.schema_arrow.metadata
            assert metadata[b"plan_sha256"].decode() == work.generations[0].sha256
            assert int(metadata[b"shard"]) == made.shard
            names.append(metadata[b"write_id"])
    assert len(set(names)) == 4
