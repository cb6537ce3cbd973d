"""The promise: every planned image has exactly one row in a run, whoever writes and whatever dies."""

from __future__ import annotations

import datetime
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline import plan, record, storage
from pipeline.errors import JobError, UserError
from pipeline.record import Committer
from pipeline.schema import SCORED
from pipeline.storage import ObjectInfo

RUN = "0123456789abcdef"


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path)


def planned(output: str, count: int, shard_size: int = 3) -> plan.Plan:
    images = [ObjectInfo(f"s3://b/{i:03d}.jpg", f"e{i}", 100 + i) for i in range(count)]
    return plan.extend(output, images, shard_size=shard_size)


def result(rows: pa.Table, *, status: str = "ok", author: str = "m") -> pa.Table:
    """Result rows for planned rows, as a Detector would give them."""
    box = {"label": "cat", "label_id": 1, "score": 0.5}
    box |= {"x_min": 0.0, "y_min": 0.0, "x_max": 2.0, "y_max": 3.0}
    now = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    made = [
        row
        | {"status": status, "model_id": author, "run_id": RUN, "scored_at": now}
        | {"num_proposals": 9, "num_detections": 1, "detections": [box]}
        for row in rows.to_pylist()
    ]
    return pa.Table.from_pylist(made, schema=record.RESULT)


def committer(output: str, work: plan.Plan, to_do: pa.Table | None = None) -> Committer:
    return Committer(
        output=output,
        run_id=RUN,
        plan=work,
        to_do=work.rows if to_do is None else to_do,
        metadata={b"format_version": b"1"},
    )


def written(output: str) -> pa.Table:
    files = sorted((Path(output) / "scored" / RUN).iterdir())
    return pa.concat_tables([pq.read_table(file) for file in files])


def test_rows_in_any_order_make_whole_shards(output: str) -> None:
    work = planned(output, 10)
    order = list(range(10))
    random.Random(0).shuffle(order)
    writer = committer(output, work)
    for index in order:
        writer.add(result(work.rows.slice(index, 1)))
    writer.check_nothing_waits()
    table = written(output)
    assert table.schema.remove_metadata() == SCORED
    assert table["image_uri"].to_pylist() == work.rows["image_uri"].to_pylist()
    assert table["etag"].to_pylist() == work.rows["etag"].to_pylist()
    assert record.done_shards(output, RUN, work) == {0, 1, 2, 3}


def test_a_shard_is_not_there_before_its_last_row(output: str) -> None:
    work = planned(output, 4)
    writer = committer(output, work)
    writer.add(result(work.rows.slice(0, 2)))
    assert record.done_shards(output, RUN, work) == set()
    writer.add(result(work.rows.slice(2, 2)))
    assert record.done_shards(output, RUN, work) == {0, 1}


def test_a_lacking_row_is_said_and_its_shard_not_written(output: str) -> None:
    work = planned(output, 6)
    writer = committer(output, work)
    writer.add(result(work.rows.slice(0, 5)))
    with pytest.raises(JobError, match="shard 1 got 2 rows of 3"):
        writer.check_nothing_waits()
    assert record.done_shards(output, RUN, work) == {0}


def test_a_row_that_came_twice_is_not_written(output: str) -> None:
    work = planned(output, 3)
    writer = committer(output, work)
    writer.add(result(work.rows.slice(0, 1)))
    writer.add(result(work.rows.slice(0, 1)))
    with pytest.raises(JobError, match="not the 3 of the plan"):
        writer.add(result(work.rows.slice(1, 1)))
    assert record.done_shards(output, RUN, work) == set()


def test_two_committers_racing_on_a_shard_leave_one_object(output: str) -> None:
    work = planned(output, 40, shard_size=4)
    writers = [committer(output, work) for _ in range(4)]

    def write(number: int) -> None:
        writers[number].add(result(work.rows, author=f"author {number}"))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    table = written(output)
    assert table["image_uri"].to_pylist() == work.rows["image_uri"].to_pylist()
    # All four describe what is there, not what they would have written.
    assert [w.shards for w in writers] == [writers[0].shards] * 4
    by_shard = [set(table["model_id"].slice(4 * n, 4).to_pylist()) for n in range(10)]
    assert all(len(authors) == 1 for authors in by_shard)


def test_resume_is_the_plan_minus_what_is_there(output: str) -> None:
    work = planned(output, 12)
    committer(output, work).add(result(work.rows.slice(0, 7)))  # two shards and one row
    done = record.done_shards(output, RUN, work)
    assert done == {0, 1}
    rest = work.rows.filter(pc.invert(pc.is_in(work.rows["shard"], pa.array(sorted(done)))))
    assert rest.num_rows == 6
    writer = committer(output, work, rest)
    writer.add(result(rest))
    writer.check_nothing_waits()
    assert written(output)["image_uri"].to_pylist() == work.rows["image_uri"].to_pylist()


def test_a_changed_image_s_newest_row_is_not_the_one_that_says_changed(output: str) -> None:
    """A second model scores both versions in the same instant."""
    old = [ObjectInfo("s3://b/a.jpg", "e1", 1), ObjectInfo("s3://b/b.jpg", "e1", 1)]
    plan.extend(output, old, shard_size=9)
    new = [ObjectInfo("s3://b/a.jpg", "e2", 1)]
    work = plan.extend(output, new, shard_size=9)
    made = result(work.rows).to_pylist()
    made[0]["status"] = "changed"
    for row in made:
        row["scored_at"] = datetime.datetime.now(datetime.UTC)
    committer(output, work).add(pa.Table.from_pylist(made, schema=record.RESULT))
    rows = written(output).to_pylist()
    newest = max((r for r in rows if r["image_uri"] == old[0].uri), key=lambda r: r["scored_at"])
    assert (newest["etag"], newest["status"]) == ("e2", "ok")
    assert rows[0]["scored_at"] == work.planned_at(0) < work.planned_at(1)
    assert rows[1]["scored_at"] == made[1]["scored_at"]


def test_another_run_stands_beside(output: str) -> None:
    work = planned(output, 3)
    committer(output, work).add(result(work.rows))
    assert record.done_shards(output, "another", work) == set()


def test_something_else_among_the_shards_is_refused(output: str) -> None:
    work = planned(output, 3)
    foreign = Path(output) / "scored" / RUN / "part-0.parquet"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"")
    with pytest.raises(UserError, match=r"part-0\.parquet: is no shard"):
        record.done_shards(output, RUN, work)


def test_the_manifest_counts_and_hashes_every_shard(output: str) -> None:
    work = planned(output, 5)
    writer = committer(output, work)
    writer.add(result(work.rows.slice(0, 3)))
    partial = record.write_manifest(output, RUN, work, writer.shards)
    assert (partial.rows, partial.complete) == (3, False)
    writer.add(result(work.rows.slice(3, 2), status="missing"))
    # Without what the committer knows: as after a crash, from the objects alone.
    manifest = record.write_manifest(output, RUN, work)
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
    assert storage.exists(text["shards"][1]["uri"])


def test_a_manifest_that_says_nothing_new_is_not_written(output: str) -> None:
    work = planned(output, 3)
    writer = committer(output, work)
    writer.add(result(work.rows))
    first = record.write_manifest(output, RUN, work, writer.shards)
    assert record.write_manifest(output, RUN, work) == first
    assert len(list((Path(output) / "runs" / RUN).iterdir())) == 1


@pytest.mark.parametrize("fault", ["garbage", "fewer rows", "other rows"])
def test_a_shard_that_is_not_the_plans_fails_the_job(output: str, fault: str) -> None:
    work = planned(output, 3)
    path = Path(record.shard_uri(output, RUN, 0))
    path.parent.mkdir(parents=True)
    rows = result(work.rows).drop_columns(["shard"])
    if fault == "garbage":
        path.write_bytes(b"PAR1")
    elif fault == "fewer rows":
        pq.write_table(rows.slice(1), path)
    else:
        pq.write_table(pa.concat_tables([rows.slice(0, 2), rows.slice(0, 1)]), path)
    with pytest.raises(JobError, match="shard 0"):
        record.write_manifest(output, RUN, work)


def test_the_run_id_changes_with_any_fact_and_with_nothing_else() -> None:
    facts: dict[str, object] = {"model_id": "a", "score_threshold": 0.5}
    same = record.make_run_id(dict(reversed(facts.items())))
    assert same == record.make_run_id(facts)
    assert len({same, record.make_run_id(facts | {"score_threshold": None})}) == 2
    assert len(same) == 16
