"""The plan names every image once and never moves it to another shard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import UserError
from pipeline.record import plan
from pipeline.record.listed import ListedImages
from pipeline.storage import ObjectInfo
from tests.pipeline.record_cases import extend, rows_of


def objects(*names: str, etag: str = "e1") -> list[ObjectInfo]:
    return [ObjectInfo(f"s3://b/{name}", etag, 7) for name in names]


def rows(planned: plan.Plan) -> list[tuple[str, str, int]]:
    table = rows_of(planned)
    columns = (table[name].to_pylist() for name in ("image_uri", "etag", "shard"))
    return list(zip(*columns, strict=True))


def test_an_output_without_a_plan_gives_an_empty_plan(tmp_path: Path) -> None:
    planned = plan.read(str(tmp_path))
    assert planned.num_images == planned.num_shards == len(planned.generations) == 0


def test_shards_are_consecutive_rows_in_order_of_their_uri(tmp_path: Path) -> None:
    planned = extend(str(tmp_path), objects("a", "b", "c", "d", "e"), shard_size=2)
    assert [shard for _, _, shard in rows(planned)] == [0, 0, 1, 1, 2]
    assert [planned.num_rows(shard) for shard in range(planned.num_shards)] == [2, 2, 1]
    assert rows(plan.read(str(tmp_path))) == rows(planned)


def test_parts_have_absolute_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers have another working directory than the driver."""
    monkeypatch.chdir(tmp_path)
    planned = extend("out", objects("a"), shard_size=2)
    assert planned.part_uri(0).startswith(str(tmp_path))
    assert plan.read("out").part_uri(0) == planned.part_uri(0)


def test_planning_the_same_images_again_writes_nothing(tmp_path: Path) -> None:
    extend(str(tmp_path), objects("a", "b"), shard_size=2)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "plans").rglob("*")}
    assert len(extend(str(tmp_path), objects("a", "b"), shard_size=2).generations) == 1
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "plans").rglob("*")} == before


def test_new_and_changed_images_make_a_new_generation_with_new_shards(tmp_path: Path) -> None:
    extend(str(tmp_path), objects("a", "b", "c"), shard_size=2)
    listing = [*objects("a"), *objects("b", etag="e2"), *objects("c", "d")]
    planned = extend(str(tmp_path), listing, shard_size=2)
    assert len(planned.generations) == 2
    assert rows(planned)[3:] == [("s3://b/b", "e2", 2), ("s3://b/d", "e1", 2)]
    assert rows(planned)[:3] == rows(extend(str(tmp_path), [], shard_size=2))[:3]


def test_the_loser_of_a_race_adds_only_what_the_winner_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path)
    create = storage.create_bytes

    def someone_else_first(uri: str, data: bytes) -> bool:
        if not uri.endswith(".json"):
            return create(uri, data)
        monkeypatch.setattr(storage, "create_bytes", create)
        extend(output, objects("a", "b"), shard_size=1)
        return create(uri, data)

    monkeypatch.setattr(storage, "create_bytes", someone_else_first)
    planned = extend(output, objects("b", "c"), shard_size=1)
    assert rows(planned) == [("s3://b/a", "e1", 0), ("s3://b/b", "e1", 1), ("s3://b/c", "e1", 2)]
    assert len(planned.generations) == 2


def test_parts_without_a_generation_plan_nothing(tmp_path: Path) -> None:
    output = str(tmp_path)
    extend(output, objects("a", "b"), shard_size=1)
    (tmp_path / "plans" / "000001.json").unlink()  # as if the driver died after writing its parts
    assert plan.read(output).num_images == 0
    assert rows(extend(output, objects("b"), shard_size=1)) == [("s3://b/b", "e1", 0)]


def test_many_shards_lie_in_many_parts(tmp_path: Path) -> None:
    names = [f"{n:03d}" for n in range(3 * plan.SHARDS_A_PART * 2 + 3)]
    planned = extend(str(tmp_path), objects(*names), shard_size=2)
    assert [part.rows for part in planned.generations[0].parts] == [20, 20, 20, 3]
    assert [uri for uri, _, _ in rows(planned)] == [f"s3://b/{name}" for name in names]
    assert planned.num_rows(planned.num_shards - 1) == 1


@pytest.mark.parametrize(
    "fault", ["garbage", "gap", "no field", "another version", "a part", "no part"]
)
def test_a_damaged_plan_is_refused(tmp_path: Path, fault: str) -> None:
    planned = extend(str(tmp_path), objects("a"), shard_size=1)
    first = tmp_path / "plans" / "000001.json"
    part = Path(planned.part_uri(0))
    described = json.loads(first.read_text())
    if fault == "garbage":
        first.write_bytes(b"not JSON")
    elif fault == "gap":
        first.rename(first.with_name("000002.json"))
    elif fault == "no field":
        first.write_text(json.dumps(described | {"parts": [{"name": "x"}]}))
    elif fault == "another version":
        first.write_text(json.dumps(described | {"format_version": 0}))
    elif fault == "a part":
        part.write_bytes(part.read_bytes()[:-1] + b"!")
    else:
        part.unlink()
    plan._read_part.cache_clear()
    with pytest.raises(UserError, match="plans"):
        plan.add_planned_images(plan.read(str(tmp_path)), ListedImages())
