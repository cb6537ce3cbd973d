"""Images whose newest row is bad are planned again, for one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import record, storage
from pipeline.errors import UserError
from pipeline.record import generations, plan, retries
from pipeline.record.listed import ListedImages
from pipeline.record.manifest import (
    Manifest,
    current_shards,
    describe,
    described_shards,
    write_manifest,
)
from pipeline.record.newest import count_superseded
from pipeline.record.retries import Retry
from pipeline.storage import ObjectInfo
from tests.pipeline.record_cases import RUN, committer, done_shards, result

DEFAULT = ("unreadable", "denied")


def images(count: int) -> list[ObjectInfo]:
    return [ObjectInfo(f"s3://b/{n}.jpg", f"e{n}", 100 + n) for n in range(count)]


class Command:
    """A scoring command without Ray: plans, plans again, writes rows, writes the manifest."""

    def __init__(self, output: str, named: Sequence[ObjectInfo], *, run_id: str = RUN) -> None:
        self.output, self.run_id = output, run_id
        self.listed = ListedImages()
        self.listed.add(storage.as_named(named))
        self.listed.deduplicate(None, look_up=False)

    def run(
        self,
        bad: Mapping[str, str] = {},
        *,
        retry: Sequence[str] = DEFAULT,
        again: bool = False,
        shard_size: int = 4,
        most: int | None = None,
    ) -> list[str]:
        """Score; `bad`: the status of an image by its number. Return the numbers of the scored images.

        `most`: write only so many shards and no manifest, as if the driver was killed.
        """
        planned = plan.extend(self.output, self.listed, shard_size=shard_size, run_id=self.run_id)
        planned, done = current_shards(self.output, self.run_id, planned)
        known = described_shards(self.output, self.run_id)
        shards = describe(self.output, self.run_id, planned, done, known)
        asked = Retry(run_id=self.run_id, statuses=tuple(retry), again=again)
        planned = retries.extend(planned, shards, self.listed, asked, shard_size=shard_size)
        to_do = record.missing_shards(planned, done, run_id=self.run_id)[:most]
        writer = committer(self.output, planned, to_do, run_id=self.run_id)
        scored = []
        for shard in to_do:
            rows = result(planned.shard(shard)).to_pylist()
            for row in rows:
                scored.append(row["image_uri"].removeprefix("s3://b/").removesuffix(".jpg"))
                row["status"] = bad.get(scored[-1], "ok")
            writer.add(pa.Table.from_pylist(rows, schema=result(planned.shard(shard)).schema))
        writer.close()
        if most is None:
            self.manifest = self.write(planned, [*shards, *writer.shards])
        self.listed.close()
        return scored

    def write(self, planned: plan.Plan, shards: Sequence[record.Shard]) -> Manifest:
        def count(shards: Sequence[record.Shard], planned: plan.Plan) -> Sequence[record.Shard]:
            return count_superseded(shards, listed=self.listed, plan=planned, run_id=self.run_id)

        return write_manifest(self.output, self.run_id, planned, shards, count=count)


def test_the_same_command_scores_denied_and_unreadable_images_again(tmp_path: Path) -> None:
    first = Command(str(tmp_path), images(9))
    first.run({"2": "denied", "5": "unreadable", "6": "missing", "7": "undecodable"})
    second = Command(str(tmp_path), images(9))
    assert second.run() == ["2", "5"]
    assert second.manifest.statuses == {"ok": 7, "missing": 1, "undecodable": 1}
    assert (second.manifest.images, second.manifest.rows) == (9, 11)
    assert second.manifest.complete
    third = Command(str(tmp_path), images(9))
    assert third.run() == []
    assert third.manifest.statuses == second.manifest.statuses


@pytest.mark.parametrize("status", ["denied", "unreadable", "missing", "changed", "failed"])
def test_each_status_can_be_tried_again(tmp_path: Path, status: str) -> None:
    Command(str(tmp_path), images(3)).run({"1": status})
    assert Command(str(tmp_path), images(3)).run(retry=[status]) == ["1"]
    assert Command(str(tmp_path), images(3)).run(retry=[status]) == []


def test_without_a_status_nothing_is_tried_again(tmp_path: Path) -> None:
    Command(str(tmp_path), images(3)).run({"1": "denied"})
    assert Command(str(tmp_path), images(3)).run(retry=[]) == []
    assert Command(str(tmp_path), images(3)).run({"1": "denied"}) == ["1"]


def test_an_image_that_failed_alike_three_times_again_is_left_alone(tmp_path: Path) -> None:
    denied = {"0": "denied", "2": "denied"}
    Command(str(tmp_path), images(5)).run(denied)
    for _ in range(3):
        assert Command(str(tmp_path), images(5)).run(denied) == ["0", "2"]
    assert Command(str(tmp_path), images(5)).run(denied) == []
    last = Command(str(tmp_path), images(5))
    assert last.run(again=True) == ["0", "2"]
    assert last.manifest.statuses == {"ok": 5}


def test_an_image_that_failed_in_another_way_is_tried_on(tmp_path: Path) -> None:
    causes = ["denied", "denied", "unreadable", "denied", "denied"]
    for cause in causes:
        Command(str(tmp_path), images(1)).run({"0": cause})
    # The last three: unreadable, denied, denied.
    assert Command(str(tmp_path), images(1)).run({"0": "denied"}) == ["0"]
    assert Command(str(tmp_path), images(1)).run() == []


def test_only_images_that_the_command_names_are_tried_again(tmp_path: Path) -> None:
    Command(str(tmp_path), images(6)).run({"1": "denied", "4": "denied"})
    assert Command(str(tmp_path), images(3)).run() == ["1"]


def test_an_image_that_changed_is_new_and_not_tried_again(tmp_path: Path) -> None:
    Command(str(tmp_path), images(3)).run({"1": "denied"})
    newer = [*images(1), ObjectInfo("s3://b/1.jpg", "new", 5), images(3)[2]]
    command = Command(str(tmp_path), newer)
    assert command.run() == ["1"]
    assert [one.run_id for one in plan.read(str(tmp_path)).generations] == [None, None]
    assert command.manifest.statuses == {"ok": 3}


def test_a_retry_that_was_interrupted_goes_on_and_is_not_planned_twice(tmp_path: Path) -> None:
    Command(str(tmp_path), images(8)).run(dict.fromkeys("0123456", "denied"))
    assert Command(str(tmp_path), images(8)).run(most=1) == ["0", "1", "2", "3"]
    last = Command(str(tmp_path), images(8))
    assert last.run() == ["4", "5", "6"]
    assert len(plan.read(str(tmp_path)).generations) == 2
    assert last.manifest.statuses == {"ok": 8}


def test_shards_that_no_manifest_describes_are_looked_at(tmp_path: Path) -> None:
    """The driver was killed before its manifest."""
    Command(str(tmp_path), images(8)).run({"1": "denied"}, most=1)
    assert Command(str(tmp_path), images(8)).run() == ["4", "5", "6", "7", "1"]


def test_the_generation_names_its_run_and_other_runs_skip_it(tmp_path: Path) -> None:
    output, other = str(tmp_path), "fedcba9876543210"
    Command(output, images(4)).run({"3": "denied"})
    Command(output, images(4)).run()
    described = json.loads((tmp_path / "plans/000002.json").read_bytes())
    assert (described["run_id"], described["rows"], described["format_version"]) == (RUN, 1, 2)
    assert "run_id" not in json.loads((tmp_path / "plans/000001.json").read_bytes())

    command = Command(output, images(5), run_id=other)
    assert command.run({"0": "denied"}) == ["0", "1", "2", "3", "4"]
    assert command.manifest.complete
    assert command.manifest.statuses == {"ok": 4, "denied": 1}
    assert done_shards(output, other, plan.read(output)) == {0, 2}
    assert plan.read(output).num_images == 5
    assert Command(output, images(5)).run() == ["4"]  # its bad image is not that of the other run


def test_a_version_that_knows_no_retries_refuses_the_plan_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Command(str(tmp_path), images(2)).run({"1": "denied"})
    Command(str(tmp_path), images(2)).run()
    monkeypatch.setattr(generations, "PLAN_VERSION", 1)
    with pytest.raises(UserError, match="newer version"):
        plan.read(str(tmp_path))


def test_two_drivers_plan_a_retry_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second driver plans, and scores, while the first one is about to create its generation."""
    output = str(tmp_path)
    Command(output, images(4)).run({"1": "denied", "2": "denied"})
    create, others = plan.extend_for_retry, []

    def late(*args: object, **flags: object) -> plan.Plan | None:
        monkeypatch.setattr(plan, "extend_for_retry", create)
        others.extend(Command(output, images(4)).run())
        return create(*args, **flags)  # type: ignore[arg-type]

    monkeypatch.setattr(plan, "extend_for_retry", late)
    command = Command(output, images(4))
    # This driver listed the shards before, so it scores the same images; the shards of the other stay.
    command.run()
    assert others == ["1", "2"]
    assert len(plan.read(output).generations) == 2
    assert command.manifest.statuses == {"ok": 4}


def test_the_store_works_if_an_image_that_was_ok_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.jpg").write_bytes(b"image")
    named = storage.list_objects(str(folder))
    output = str(tmp_path / "out")
    command = Command(output, named)
    command.run({str(folder / "0"): "denied"})
    shards = command.manifest.shards
    assert retries.store_works(output, RUN, shards)
    (folder / "1.jpg").unlink()  # the first `ok` row
    assert not retries.store_works(output, RUN, shards)
    assert not retries.store_works(output, RUN, [])
