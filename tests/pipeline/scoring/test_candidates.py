"""The CPU stage of scoring: tasks cover the shards, and images of similar shape are neighbours."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from fastrcnn.config import ProposalConfig
from pipeline.errors import JobError, UserError
from pipeline.record import plan
from pipeline.runtime.attempts import AttemptLog, SharedAttempts
from pipeline.scoring.candidates import ReadSettings, cut_tasks, read_tasks
from pipeline.scoring.selection import select

SETTINGS = ReadSettings(proposals=ProposalConfig(name="grid", max_boxes=12))


def write_image(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    Image.new("RGB", size, (90, 20, 10)).save(path)


def test_tasks_cover_every_row_of_the_shards_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(11):
        write_image(tmp_path / "in" / f"{n:02d}.png")
    listed = select(str(tmp_path / "in")).listed
    work = plan.extend(str(tmp_path / "out"), listed, shard_size=5)
    pieces = cut_tasks(work, [0, 1, 2], 3)
    assert pieces["rows"].to_pylist() == [3, 2, 3, 2, 1]
    read = [
        r for n in range(5) for t in read_tasks(pieces.slice(n, 1), SETTINGS) for r in t.to_pylist()
    ]
    assert sorted((row["shard"], Path(row["image_uri"]).name) for row in read) == [
        (n // 5, f"{n:02d}.png") for n in range(11)
    ]
    assert {row["status"] for row in read} == {"ok"}


def test_images_of_similar_shape_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(12):
        write_image(tmp_path / "in" / f"{n:02d}.png", (60, 30) if n % 2 else (30, 60))
    listed = select(str(tmp_path / "in")).listed
    work = plan.extend(str(tmp_path / "out"), listed, shard_size=50)
    (chunk,) = read_tasks(cut_tasks(work, [0], 50), SETTINGS, batch_size=4)
    assert chunk["width"].to_pylist() == [30] * 6 + [60] * 6


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    """The task of a plan whose part cannot be read."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png")
    listed = select(str(tmp_path / "in")).listed
    work = cut_tasks(plan.extend(str(tmp_path / "out"), listed, shard_size=5), [0], 5)
    Path(work["part"][0].as_py()).write_bytes(b"damaged")
    plan._read_part.cache_clear()
    return work


class Left(BaseException):
    """Stands for the end of a worker process."""


def leave(attempts: SharedAttempts, work: pa.Table, here: str, nodes: set[str]) -> None:
    """Let the node `here` of these nodes try the task."""

    def end(code: int) -> None:
        raise Left

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.runtime.cluster.this_node", lambda: here)
        patch.setattr("pipeline.runtime.cluster.working_nodes", lambda: nodes)
        patch.setattr("os._exit", end)
        list(read_tasks(work, SETTINGS, attempts))


@pytest.mark.usefixtures("ray_cluster")
def test_a_task_whose_plan_a_node_cannot_read_is_left_to_others_until_all_failed(
    damaged: pa.Table,
) -> None:
    attempts, nodes = SharedAttempts(), {"a", "b", "c"}
    for here in ("a", "a", "a", "a", "b"):  # a node that fails at once gets the task again
        with pytest.raises(Left):
            leave(attempts, damaged, here, nodes)
    with pytest.raises(JobError, match="after 6 tries on 3 of 3 nodes .*is not a part of a plan"):
        leave(attempts, damaged, "c", nodes)
    alone = SharedAttempts()
    for _ in range(2):
        with pytest.raises(Left):
            leave(alone, damaged, "a", {"a"})
    with pytest.raises(JobError, match="after 3 tries on 1 of 1 nodes"):
        leave(alone, damaged, "a", {"a"})


def test_the_log_of_left_work_counts_by_work_and_by_node_and_measures_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.runtime.attempts.time.monotonic", lambda: now[0])
    log = AttemptLog()
    assert log.leaves("x", "a") == (["a"], 1, 0.0)
    now[0] += 120
    assert log.leaves("y", "a") == (["a"], 2, 0.0)
    assert log.leaves("x", "b") == (["a", "b"], 1, 120.0)


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_that_alone_gets_a_task_again_and_again_for_minutes_ends_the_run(
    damaged: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other nodes are full: each try comes to the node that cannot reach the store."""
    monkeypatch.setattr("pipeline.runtime.attempts._LONGEST_S", 0.0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    attempts, nodes = SharedAttempts(), {"a", "b", "c"}
    for _ in range(2):
        with pytest.raises(Left):
            leave(attempts, damaged, "a", nodes)
    with pytest.raises(
        JobError, match=r"after 3 tries on 1 of 3 nodes \(a\): .*not a part of a plan"
    ):
        leave(attempts, damaged, "a", nodes)


@pytest.mark.usefixtures("ray_cluster")
def test_the_tasks_of_a_part_are_counted_apart_and_a_node_waits_longer_for_each(
    damaged: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a large plan has thousands of tasks. A bad node leaves many of them, and the run goes on."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    attempts = SharedAttempts()
    other = damaged.set_column(2, "first", pa.array([3], damaged.schema.field("first").type))
    for _ in range(20):
        for task in (damaged, other):
            with pytest.raises(Left):
                leave(attempts, task, "a", {"a", "b"})
    assert pauses[:5] == [2, 4, 8, 10, 10]


@pytest.mark.parametrize("attempts", [None, AttemptLog()])
def test_without_other_nodes_the_error_itself_is_raised(
    damaged: pa.Table, attempts: AttemptLog | None
) -> None:
    with pytest.raises(UserError, match="is not a part of a plan"):
        list(read_tasks(damaged, SETTINGS, attempts))
