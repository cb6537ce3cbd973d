"""A lost plan is made again from the shards, where they say all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import record, storage
from pipeline.errors import UserError
from pipeline.record import generations, plan
from pipeline.record.checks import check_record
from pipeline.record.rebuild import rebuild_plan
from pipeline.storage import ObjectInfo
from tests.pipeline.record_cases import (
    RUN,
    committer,
    extend,
    make_older,
    objects,
    planned,
    result,
    rows_of,
    score_all,
)

OTHER = "f" * 16


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output with two scored generations: shards 0 to 3 (10 images) and 4 to 5 (two new, one changed)."""
    output = str(tmp_path / "out")
    if request.param == "s3":
        output = f"{request.getfixturevalue('bucket')}/out"
    score_all(output, planned(output, 10))
    new = [ObjectInfo(f"s3://b/{name}.jpg", "new", 5) for name in ("003", "x", "y")]
    score_all(output, extend(output, new, shard_size=2))
    return output


def everything(output: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = rows_of(plan.read(output)).to_pylist()
    return rows


def numbers(output: str) -> list[tuple[int, int, int]]:
    generations = plan.read(output).generations
    return [(g.first_shard, g.shard_size, g.rows) for g in generations]


def lose(output: str, *names: str) -> None:
    for name in objects(output):
        if name.startswith(names):
            storage.delete(storage.join(output, name))


def edit(output: str, name: str, change: Callable[[bytes], bytes]) -> None:
    uri = storage.join(output, name)
    storage.write_bytes(uri, change(storage.read_bytes(uri)))


def parts(output: str) -> list[str]:
    """Names of the plan's parts; those of the first generation come first."""
    generations = plan.read(output).generations
    return [f"plans/parts/{part.name}" for g in generations for part in g.parts]


LOST: dict[str, Callable[[str], object]] = {
    "all": lambda output: lose(output, "plans/"),
    "the first generation": lambda output: lose(output, "plans/000001"),
    "the last generation": lambda output: lose(output, "plans/000002"),
    "all parts": lambda output: lose(output, "plans/parts/"),
    "one part": lambda output: lose(output, parts(output)[0]),
    "a bit of a part": lambda output: edit(
        output, parts(output)[1], lambda d: d[:99] + b"!" + d[100:]
    ),
    "half of a JSON": lambda output: edit(output, "plans/000001.json", lambda d: d[:99]),
    "a number": lambda output: edit(
        output, "plans/000001.json", lambda d: d.replace(b'"shard_size": 3', b'"shard_size": 4')
    ),
    "the size of the shards": lambda output: edit(
        output, "plans/000002.json", lambda d: d.replace(b'"shard_size": 2', b'"shard_size": 0')
    ),
    "the order": lambda output: swap(output, "plans/000001.json", "plans/000002.json"),
}


def swap(output: str, one: str, other: str) -> None:
    first, second = objects(output)[one], objects(output)[other]
    storage.write_bytes(storage.join(output, one), second)
    storage.write_bytes(storage.join(output, other), first)


@pytest.mark.parametrize("what", LOST)
def test_a_plan_is_made_again_as_it_was(output: str, what: str) -> None:
    before, scored = everything(output), objects(f"{output}/scored")
    LOST[what](output)
    plan._read_part.cache_clear()
    rebuilt = rebuild_plan(output, RUN)
    assert everything(output) == before
    assert numbers(output) == [(0, 3, 10), (4, 2, 3)]
    assert check_record(output, RUN, rebuilt).damaged == {}
    assert objects(f"{output}/scored") == scored


def test_a_plan_that_is_whole_stays(output: str) -> None:
    before = objects(output)
    rebuild_plan(output, RUN)
    assert objects(output) == before


def test_a_plan_can_be_made_again_twice(output: str) -> None:
    """The shards name the first JSON, and so does each that replaces it."""
    before = everything(output)
    for _ in range(2):
        lose(output, "plans/")
        rebuild_plan(output, RUN)
        assert everything(output) == before
    described = json.loads(objects(output)["plans/000001.json"])
    assert described["format_version"] == 2
    assert len(described["replaces"]) == 64


def test_the_time_of_a_plan_is_not_after_its_rows(output: str) -> None:
    """The committer dates rows with status `changed` with the time of the plan."""
    lose(output, "plans/")
    (scored_at,) = {row["scored_at"] for row in scored_rows(output)}
    assert rebuild_plan(output, RUN).generations[0].planned_at == scored_at


def scored_rows(output: str) -> list[dict[str, datetime]]:
    uri = record.shard_uri(output, RUN, 0)
    with record.open_shard(uri) as (file, _, _):
        rows: list[dict[str, datetime]] = file.read(["scored_at"]).to_pylist()
        return rows


def test_what_is_in_the_way_is_moved(output: str, tmp_path: Path) -> None:
    before, other = everything(output), str(tmp_path / "other")
    for count in (4, 8, 12):  # three generations, and this output has two
        planned(other, count)
    lose(output, "plans/")
    for name, data in objects(other).items():
        storage.write_bytes(storage.join(output, name), data)
    rebuild_plan(output, RUN)
    assert everything(output) == before
    moved = {n: data for n, data in objects(output).items() if "/damaged/" in n}
    assert moved == {
        f"runs/{RUN}/damaged/plans-{n:06d}.json": objects(other)[f"plans/{n:06d}.json"]
        for n in (1, 2, 3)
    }


def test_a_foreign_file_among_the_generations_is_moved_and_they_stay(output: str) -> None:
    before = everything(output)
    generation = storage.read_bytes(storage.join(output, "plans/000002.json"))
    for name in (".DS_Store", "000001 (copy).json", "000000.json"):
        storage.write_bytes(storage.join(output, f"plans/{name}"), generation)
    rebuild_plan(output, RUN)
    assert everything(output) == before
    assert storage.read_bytes(storage.join(output, "plans/000002.json")) == generation
    assert f"runs/{RUN}/damaged/plans-.DS_Store" in objects(output)


def test_shards_of_all_runs_are_used(output: str) -> None:
    """One run lacks shard 1, the other has only that one."""
    before = everything(output)
    writer = committer(output, plan.read(output), [1], run_id=OTHER)
    writer.add(result(rows_of(plan.read(output), [1])))
    writer.close()
    storage.delete(record.shard_uri(output, RUN, 1))
    lose(output, "plans/")
    rebuild_plan(output, RUN)
    assert everything(output) == before


@pytest.mark.parametrize("fault", ["missing", "damaged", "damaged at the end"])
def test_a_shard_that_no_run_has_is_named_and_no_generation_is_written(
    output: str, fault: str
) -> None:
    shard = 5 if fault == "damaged at the end" else 1
    uri = record.shard_uri(output, RUN, shard)
    if fault == "missing":
        storage.delete(uri)
    else:
        storage.write_bytes(uri, storage.read_bytes(uri)[:100])
    lose(output, "plans/")
    before = objects(output)
    with pytest.raises(UserError, match=rf"cannot be made again: .*{shard:08d}\.parquet"):
        rebuild_plan(output, RUN)
    assert objects(output) == before


def test_the_parts_that_are_left_fill_a_gap(output: str) -> None:
    """A run was interrupted: shard 1 was not scored. The JSON and the part of shard 1 are there."""
    before = everything(output)
    storage.delete(record.shard_uri(output, RUN, 1))
    lose(output, "plans/000002.json")
    rebuild_plan(output, RUN)
    assert everything(output) == before


def test_images_of_later_shards_that_nobody_scored_are_planned_again(output: str) -> None:
    """Without the plan, nobody knows them. They are new images of the next command."""
    storage.delete(record.shard_uri(output, RUN, 5))
    lose(output, "plans/")
    rebuild_plan(output, RUN)
    assert numbers(output) == [(0, 3, 10), (4, 2, 2)]
    extend(output, [ObjectInfo("s3://b/y.jpg", "new", 5)], shard_size=2)
    assert numbers(output)[2] == (6 - 1, 2, 1)


def test_shards_of_different_plans_are_refused(output: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    score_all(other, planned(other, 10))
    foreign = storage.read_bytes(record.shard_uri(other, RUN, 1))
    storage.write_bytes(record.shard_uri(output, RUN, 1), foreign)
    lose(output, "plans/")
    with pytest.raises(UserError, match="is of another plan than its neighbours"):
        rebuild_plan(output, RUN)
    storage.write_bytes(record.shard_uri(output, OTHER, 0), foreign)
    with pytest.raises(UserError, match="cannot be made again"):
        rebuild_plan(output, RUN)


def test_a_generation_for_one_run_stays_so(output: str) -> None:
    """It plans images again that were planned before, so it is known by its images."""
    work = plan.read(output)
    again = [ObjectInfo("s3://b/y.jpg", "new", 5)]
    described = plan.describe_generation(output, [storage.as_named(again)], work.num_shards, 2)
    described |= {"run_id": RUN, "format_version": 2}
    storage.create_bytes(generations.generation_uri(output, 3), json.dumps(described).encode())
    score_all(output, plan.read(output))
    before = everything(output)
    lose(output, "plans/")
    rebuilt = rebuild_plan(output, RUN)
    assert [generation.run_id for generation in rebuilt.generations] == [None, None, RUN]
    assert everything(output) == before


def test_a_plan_of_an_older_output_is_made_again(output: str) -> None:
    """Its shards name no generation; a short shard, another size or a smaller URI begins the next."""
    before = everything(output)
    make_older(output)
    lose(output, "plans/")
    rebuilt = rebuild_plan(output, RUN)
    assert everything(output) == before
    assert numbers(output) == [(0, 3, 10), (4, 2, 3)]
    assert check_record(output, RUN, rebuilt).damaged == {}


def test_a_generation_of_a_newer_version_is_not_replaced(output: str) -> None:
    edit(
        output,
        "plans/000001.json",
        lambda d: d.replace(b'"format_version": 1', b'"format_version": 9'),
    )
    before = objects(output)
    with pytest.raises(UserError, match="newer version"):
        rebuild_plan(output, RUN)
    assert objects(output) == before
