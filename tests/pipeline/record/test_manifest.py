"""The manifest describes the shards that exist, after checking them against the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import record, storage
from pipeline.errors import JobError, ObjectUnreachable, UserError
from pipeline.record import plan
from pipeline.record.manifest import described_shards, write_manifest
from pipeline.storage import ObjectInfo
from tests.pipeline.record_cases import (
    RUN,
    committer,
    extend,
    last_manifest,
    make_older,
    planned,
    result,
    rows_of,
    score_all,
    wrong_hashes,
)


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path)


def test_the_manifest_counts_and_hashes_every_shard(output: str) -> None:
    work = planned(output, 5)
    writer = committer(output, work)
    writer.add(result(rows_of(work).slice(0, 3)))
    writer.flush()
    partial = write_manifest(output, RUN, work, writer.shards)
    assert (partial.rows, partial.complete) == (3, False)
    writer.add(result(rows_of(work).slice(3, 2), status="missing"))
    writer.close()
    # Without the committer's shards, as after a crash: it reads the objects.
    manifest = write_manifest(output, RUN, work)
    assert (manifest.rows, manifest.complete) == (5, True)
    assert manifest.statuses == {"ok": 3, "missing": 2}
    assert list(manifest.shards) == writer.shards
    folder = Path(output) / "runs" / RUN
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest-000001.json",
        "manifest-000002.json",
    ]
    text = json.loads((folder / "manifest-000002.json").read_text())
    assert text["rows"] == 5
    assert text["shards"][1]["uri"] == f"scored/{RUN}/00000001.parquet"
    assert storage.exists(storage.join(output, text["shards"][1]["uri"]))
    assert text["generations"] == [work.generations[0].sha256]
    assert {shard["plan_sha256"] for shard in text["shards"]} == {work.generations[0].sha256}


def test_a_manifest_equal_to_the_last_one_is_not_written(output: str) -> None:
    work = planned(output, 3)
    writer = committer(output, work)
    writer.add(result(rows_of(work)))
    writer.close()
    first = write_manifest(output, RUN, work, writer.shards)
    assert write_manifest(output, RUN, work) == first
    assert len(list((Path(output) / "runs" / RUN).iterdir())) == 1


@pytest.mark.parametrize("fault", ["garbage", "fewer rows", "other rows"])
def test_a_shard_that_differs_from_the_plan_fails_the_job(output: str, fault: str) -> None:
    work = planned(output, 3)
    path = Path(record.shard_uri(output, RUN, 0))
    path.parent.mkdir(parents=True)
    rows = result(rows_of(work)).drop_columns(["shard", "detect_s"])
    if fault == "garbage":
        path.write_bytes(b"PAR1")
    elif fault == "fewer rows":
        pq.write_table(rows.slice(1), path)
    else:
        pq.write_table(pa.concat_tables([rows.slice(0, 2), rows.slice(0, 1)]), path)
    with pytest.raises(UserError, match="shard 0"):
        write_manifest(output, RUN, work)


def test_a_manifest_describes_shards_that_another_driver_planned_meanwhile(output: str) -> None:
    old = planned(output, 5)
    score_all(output, extend(output, [ObjectInfo("s3://b/x.jpg", "e", 1)], shard_size=3))
    manifest = write_manifest(output, RUN, old)
    assert (manifest.rows, manifest.complete) == (6, True)


def test_a_manifest_of_an_older_plan_is_not_complete(output: str) -> None:
    work = planned(output, 5)
    score_all(output, work)
    extend(output, [ObjectInfo("s3://b/x.jpg", "e", 1)], shard_size=3)
    assert write_manifest(output, RUN, work).complete
    assert not write_manifest(output, RUN, plan.read(output)).complete


def test_of_two_drivers_at_the_end_the_second_describes_all_shards(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = planned(output, 6)
    writer = committer(output, work)
    writer.add(result(rows_of(work, [0])))
    writer.flush()
    create = storage.create_bytes

    def another_first(uri: str, data: bytes) -> bool:
        monkeypatch.setattr(storage, "create_bytes", create)
        writer.add(result(rows_of(work, [1])))
        writer.flush()
        write_manifest(output, RUN, work)
        return create(uri, data)

    monkeypatch.setattr(storage, "create_bytes", another_first)
    manifest = write_manifest(output, RUN, work, writer.shards)
    assert (manifest.rows, manifest.complete) == (6, True)
    assert len(last_manifest(output)["shards"]) == 2


def test_a_shard_written_again_while_a_driver_ran_keeps_no_stale_hash(output: str) -> None:
    """This driver wrote shard 0; it was lost, and another driver wrote it again."""
    work = planned(output, 6)
    writer = committer(output, work)
    writer.add(result(rows_of(work)))
    writer.close()
    Path(record.shard_uri(output, RUN, 0)).unlink()
    score_all(output, work)
    write_manifest(output, RUN, work, writer.shards)
    assert wrong_hashes(output) == []


def test_an_older_manifest_is_read_and_replaced(output: str) -> None:
    work = planned(output, 5)
    score_all(output, work)
    make_older(output)
    assert last_manifest(output)["shards"][0]["uri"].startswith(output)
    manifest = write_manifest(output, RUN, work)
    assert (manifest.rows, manifest.complete) == (5, True)
    described = last_manifest(output)
    assert {entry["plan_sha256"] for entry in described["shards"]} == set(described["generations"])
    assert described["shards"][0]["uri"] == f"scored/{RUN}/00000000.parquet"
    assert wrong_hashes(output) == []


def test_shards_beyond_the_plan_are_no_shards_of_another_driver(output: str) -> None:
    score_all(output, planned(output, 6))
    (Path(output) / "plans" / "000001.json").unlink()
    with pytest.raises(UserError, match="--rebuild-plan"):
        write_manifest(output, RUN, plan.read(output))


@pytest.mark.parametrize(
    "name", ["manifest-000001.json.bak", "manifest-old.json", "manifest-2.txt"]
)
def test_another_file_beside_the_manifests_is_no_manifest(output: str, name: str) -> None:
    work = planned(output, 6)
    score_all(output, work)
    storage.write_bytes(record.run_file_uri(output, RUN, name), b"{")
    assert len(described_shards(output, RUN)) == 2


def test_a_manifest_of_another_run_is_refused(output: str) -> None:
    work = planned(output, 6)
    score_all(output, work)
    score_all(output, work, run_id="f" * 16)
    other = storage.read_bytes(record.run_file_uri(output, "f" * 16, "manifest-000001.json"))
    storage.write_bytes(record.run_file_uri(output, RUN, "manifest-000001.json"), other)
    with pytest.raises(UserError, match=r"describes run ffff.*Move it away, and run"):
        described_shards(output, RUN)


def test_a_store_that_does_not_answer_is_no_damaged_file(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_all(output, planned(output, 6))

    def silent(uri: str, **_: object) -> bytes:
        raise ObjectUnreachable(f"{uri}: no answer")

    monkeypatch.setattr(storage, "read_bytes", silent)
    for read in (lambda: plan.read(output), lambda: described_shards(output, RUN)):
        with pytest.raises(JobError, match="when the store answers, run the same command again"):
            read()
