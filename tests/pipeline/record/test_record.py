"""The promise: every planned image has exactly one row in a run, even when drivers race or die."""

from __future__ import annotations

import datetime
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import record
from pipeline.errors import JobError, UserError
from pipeline.schema import RESULT, SCORED
from pipeline.storage import ObjectInfo
from tests.pipeline.record_cases import (
    RUN,
    committer,
    done_shards,
    extend,
    planned,
    result,
    rows_of,
    written,
)


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path)


def test_rows_in_any_order_make_whole_shards(output: str) -> None:
    work = planned(output, 10)
    order = list(range(10))
    random.Random(0).shuffle(order)
    writer = committer(output, work)
    for index in order:
        writer.add(result(rows_of(work).slice(index, 1)))
    writer.close()
    table = written(output)
    assert table.schema.remove_metadata() == SCORED
    assert table["image_uri"].to_pylist() == rows_of(work)["image_uri"].to_pylist()
    assert table["etag"].to_pylist() == rows_of(work)["etag"].to_pylist()
    assert done_shards(output, RUN, work) == {0, 1, 2, 3}


def test_a_shard_is_written_after_its_last_row(output: str) -> None:
    work = planned(output, 4)
    writer = committer(output, work)
    writer.add(result(rows_of(work).slice(0, 2)))
    writer.flush()
    assert done_shards(output, RUN, work) == set()
    writer.add(result(rows_of(work).slice(2, 2)))
    writer.flush()
    assert done_shards(output, RUN, work) == {0, 1}


def test_a_missing_row_is_an_error_and_its_shard_is_not_written(output: str) -> None:
    work = planned(output, 6)
    writer = committer(output, work)
    writer.add(result(rows_of(work).slice(0, 5)))
    with pytest.raises(JobError, match="shard 1 has 2 of its 3 rows"):
        writer.close()
    assert done_shards(output, RUN, work) == {0}


def test_a_shard_with_a_row_twice_is_not_written(output: str) -> None:
    work = planned(output, 3)
    writer = committer(output, work)
    writer.add(result(rows_of(work).slice(0, 1)))
    writer.add(result(rows_of(work).slice(0, 1)))
    writer.add(result(rows_of(work).slice(1, 1)))
    with pytest.raises(JobError, match="not the 3 planned images"):
        writer.flush()
    assert done_shards(output, RUN, work) == set()


@pytest.mark.parametrize("store", ["local", "s3"])
def test_committers_racing_on_a_shard_leave_one_object(
    output: str, store: str, request: pytest.FixtureRequest
) -> None:
    if store == "s3":
        output = request.getfixturevalue("bucket") + "/out"
    work = planned(output, 40, shard_size=4)
    writers = [committer(output, work) for _ in range(4)]

    def write(number: int) -> None:
        writers[number].add(result(rows_of(work), author=f"author {number}"))
        writers[number].close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    table = written(output)
    assert table["image_uri"].to_pylist() == rows_of(work)["image_uri"].to_pylist()
    # All four describe the object that exists, not the one that they tried to write.
    assert [w.shards for w in writers] == [writers[0].shards] * 4
    by_shard = [set(table["model_id"].slice(4 * n, 4).to_pylist()) for n in range(10)]
    assert all(len(authors) == 1 for authors in by_shard)


def test_a_resumed_run_scores_the_planned_shards_that_are_missing(output: str) -> None:
    work = planned(output, 12)
    first = committer(output, work)
    first.add(result(rows_of(work).slice(0, 7)))  # two shards and one row
    first.flush()
    done = done_shards(output, RUN, work)
    assert done == {0, 1}
    rest = record.missing_shards(work, done)
    assert rest == [2, 3]
    writer = committer(output, work, rest)
    writer.add(result(rows_of(work, rest)))
    writer.close()
    assert written(output)["image_uri"].to_pylist() == rows_of(work)["image_uri"].to_pylist()


def test_the_row_with_status_changed_is_not_the_newest_of_its_image(output: str) -> None:
    """A second model scores both versions at the same moment."""
    old = [ObjectInfo("s3://b/a.jpg", "e1", 1), ObjectInfo("s3://b/b.jpg", "e1", 1)]
    extend(output, old, shard_size=9)
    new = [ObjectInfo("s3://b/a.jpg", "e2", 1)]
    work = extend(output, new, shard_size=9)
    made = result(rows_of(work)).to_pylist()
    made[0]["status"] = "changed"
    for row in made:
        row["scored_at"] = datetime.datetime.now(datetime.UTC)
    writer = committer(output, work)
    writer.add(pa.Table.from_pylist(made, schema=RESULT))
    writer.close()
    rows = written(output).to_pylist()
    newest = max((r for r in rows if r["image_uri"] == old[0].uri), key=lambda r: r["scored_at"])
    assert (newest["etag"], newest["status"]) == ("e2", "ok")
    assert rows[0]["scored_at"] == work.generation(0).planned_at < work.generation(1).planned_at
    assert rows[1]["scored_at"] == made[1]["scored_at"]


def test_only_the_wanted_shards_are_scored(output: str) -> None:
    work = planned(output, 12)
    assert record.missing_shards(work, set(), {1, 0}) == [0, 1]
    assert record.missing_shards(work, {0}, {1, 0}) == [1]
    assert record.missing_shards(work, {0, 1, 2, 3}) == []


def test_two_runs_share_an_output(output: str) -> None:
    work = planned(output, 3)
    writer = committer(output, work)
    writer.add(result(rows_of(work)))
    writer.close()
    assert done_shards(output, "another", work) == set()


def test_another_object_among_the_shards_is_refused(output: str) -> None:
    work = planned(output, 3)
    foreign = Path(output) / "scored" / RUN / "part-0.parquet"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"")
    with pytest.raises(UserError, match=r"part-0\.parquet: is not a shard"):
        done_shards(output, RUN, work)


def test_the_run_id_changes_with_any_fact_and_with_nothing_else() -> None:
    facts: dict[str, object] = {"model_id": "a", "score_threshold": 0.5}
    same = record.make_run_id(dict(reversed(facts.items())))
    assert same == record.make_run_id(facts)
    assert len({same, record.make_run_id(facts | {"score_threshold": None})}) == 2
    assert len(same) == 16


KILLED_WRITER = """
import os, signal, sys
from pipeline.record import plan
from tests.pipeline.record_cases import committer, result, rows_of
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
work = plan.read(sys.argv[1])
writer = committer(sys.argv[1], work)
writer.add(result(rows_of(work)))
writer.close()
"""


def test_a_driver_killed_while_it_writes_a_shard_leaves_no_part_of_it(output: str) -> None:
    """On a local disk too, scored/ holds only whole shards."""
    work = planned(output, 3)
    folder = Path(record.scored_uri(output, RUN))
    folder.mkdir(parents=True)
    checkout = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", KILLED_WRITER, output]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(checkout)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(folder.iterdir()) == []
    writer = committer(output, work)
    writer.add(result(rows_of(work)))
    writer.close()
    assert done_shards(output, RUN, work) == {0}
