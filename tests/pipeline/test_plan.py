"""The plan: every image once, in one shard, for ever."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import plan, storage
from pipeline.errors import UserError
from pipeline.schema import PLAN
from pipeline.storage import ObjectInfo


def objects(*names: str, etag: str = "e1") -> list[ObjectInfo]:
    return [ObjectInfo(f"s3://b/{name}", etag, 7) for name in names]


def rows(planned: plan.Plan) -> list[tuple[str, str, int]]:
    columns = (planned.rows[name].to_pylist() for name in ("image_uri", "etag", "shard"))
    return list(zip(*columns, strict=True))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_no_plan_is_an_empty_plan(tmp_path: Path) -> None:
    planned = plan.read(str(tmp_path))
    assert planned.rows.num_rows == planned.generations == 0
    assert planned.rows.schema == PLAN
    assert planned.shard_sizes() == {}


def test_shards_are_consecutive_rows_in_order_of_their_uri(tmp_path: Path) -> None:
    planned = plan.extend(str(tmp_path), objects("a", "b", "c", "d", "e"), shard_size=2)
    assert [shard for _, _, shard in rows(planned)] == [0, 0, 1, 1, 2]
    assert planned.shard_sizes() == {0: 2, 1: 2, 2: 1}
    assert rows(plan.read(str(tmp_path))) == rows(planned)


def test_planning_the_same_again_writes_nothing(tmp_path: Path) -> None:
    plan.extend(str(tmp_path), objects("a", "b"), shard_size=2)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "plans").iterdir()}
    assert plan.extend(str(tmp_path), objects("a", "b"), shard_size=2).generations == 1
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "plans").iterdir()} == before


def test_new_and_changed_images_make_a_new_generation_with_new_shards(tmp_path: Path) -> None:
    plan.extend(str(tmp_path), objects("a", "b", "c"), shard_size=2)
    listing = [*objects("a"), *objects("b", etag="e2"), *objects("c", "d")]
    planned = plan.extend(str(tmp_path), listing, shard_size=2)
    assert planned.generations == 2
    assert rows(planned)[3:] == [("s3://b/b", "e2", 2), ("s3://b/d", "e1", 2)]
    assert rows(planned)[:3] == rows(plan.extend(str(tmp_path), [], shard_size=2))[:3]


def test_the_loser_of_a_race_adds_only_what_the_winner_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path)
    create = storage.create_bytes

    def someone_else_first(uri: str, data: bytes) -> bool:
        monkeypatch.setattr(storage, "create_bytes", create)
        plan.extend(output, objects("a", "b"), shard_size=1)
        return create(uri, data)

    monkeypatch.setattr(storage, "create_bytes", someone_else_first)
    planned = plan.extend(output, objects("b", "c"), shard_size=1)
    assert rows(planned) == [("s3://b/a", "e1", 0), ("s3://b/b", "e1", 1), ("s3://b/c", "e1", 2)]
    assert planned.generations == 2


@pytest.mark.parametrize("fault", ["garbage", "gap", "columns"])
def test_a_spoilt_plan_is_refused(tmp_path: Path, fault: str) -> None:
    plan.extend(str(tmp_path), objects("a"), shard_size=1)
    first = tmp_path / "plans" / "000001.parquet"
    if fault == "garbage":
        first.write_bytes(b"not Parquet")
    elif fault == "gap":
        first.rename(first.with_name("000002.parquet"))
    else:
        pq.write_table(pa.table({"key": ["a"]}), first)
    with pytest.raises(UserError, match="plans"):
        plan.read(str(tmp_path))


def test_a_prefix_holds_the_images_under_it_and_counts_the_rest(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "deep/c.jpeg", "notes.txt", "Thumbs.db")
    selection = plan.select(str(tmp_path))
    names = [Path(item.uri).name for item in selection.objects]
    assert names == ["a.png", "b.JPG", "c.jpeg"]
    assert selection.left_out == 2


def test_a_glob_holds_every_object_it_matches(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.scan", "c.jpg")
    selection = plan.select(str(tmp_path / "*.scan"))
    assert [Path(item.uri).name for item in selection.objects] == ["b.scan"]


def test_a_manifest_holds_each_uri_once_there_or_not(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    there, gone = str(tmp_path / "a.png"), str(tmp_path / "gone.png")
    (tmp_path / "list.txt").write_text(f"{gone}\n{there}\n{there}\n")
    selection = plan.select(str(tmp_path / "list.txt"))
    assert [item.uri for item in selection.objects] == [there, gone]
    planned = plan.extend(str(tmp_path / "out"), selection.objects, shard_size=10)
    assert planned.rows["etag"].null_count == 1
    assert plan.missing(planned, selection.objects) == []
    touch(tmp_path, "gone.png")
    appeared = plan.select(str(tmp_path / "list.txt")).objects
    assert [item.uri for item in plan.missing(planned, appeared)] == [gone]


def test_a_limit_keeps_the_first_uris(tmp_path: Path) -> None:
    touch(tmp_path, "c.png", "a.png", "b.png")
    assert [Path(o.uri).name for o in plan.select(str(tmp_path), 2).objects] == ["a.png", "b.png"]


def test_no_image_is_the_users_to_mend(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(UserError, match=r"no image \(1 objects without an image suffix\)"):
        plan.select(str(tmp_path))


@pytest.mark.parametrize(
    ("images", "output", "refused"),
    [
        ("s3://b/photos", "s3://b/photos/out", True),
        ("s3://b/photos/", "s3://b/photos", True),
        ("s3://b", "s3://b/out", True),
        ("s3://b/photos", "s3://b/photos-scored", False),
        ("s3://b/**", "s3://b/out", True),
        ("s3://b/*.jpg", "s3://b/out", False),
        ("s3://b/out/list.csv", "s3://b/out", False),
    ],
)
def test_an_output_inside_the_images_is_refused(images: str, output: str, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="lies inside"):
            plan.check_apart(images, output)
    else:
        plan.check_apart(images, output)
