"""A prefix, a glob or a list selects images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.record import plan
from pipeline.scoring.selection import Filter, Selection, check_apart, select


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def uris(selection: Selection) -> list[str]:
    found: list[str] = selection.listed.first(1_000_000)["image_uri"].to_pylist()
    assert len(found) == selection.num_images
    return found


def names(selection: Selection) -> list[str]:
    return [Path(uri).name for uri in uris(selection)]


def test_a_prefix_selects_the_images_under_it_and_counts_the_other_objects(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "deep/c.jpeg", "notes.txt", "Thumbs.db")
    selection = select(str(tmp_path))
    assert names(selection) == ["a.png", "b.JPG", "c.jpeg"]
    assert selection.left_out == {"without an image suffix": 2}
    assert selection.size_bytes == 3


def test_a_glob_selects_every_object_that_it_matches(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.scan", "c.jpg")
    assert names(select(str(tmp_path / "*.scan"))) == ["b.scan"]


def test_a_list_selects_each_uri_once_even_if_no_object_exists(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    there, gone = str(tmp_path / "a.png"), str(tmp_path / "gone.png")
    (tmp_path / "list.txt").write_text(f"{gone}\n{there}\n{there}\n")
    selection = select(str(tmp_path / "list.txt"))
    assert uris(selection) == [there, gone]
    planned = plan.extend(str(tmp_path / "out"), selection.listed, shard_size=10)
    assert planned.shard(0)["etag"].null_count == 1
    assert selection.listed.new_size() == (0, 0)
    touch(tmp_path, "gone.png")
    appeared = select(str(tmp_path / "list.txt")).listed
    plan.compare(planned, appeared)
    assert [uri for table in appeared.new() for uri in table["image_uri"].to_pylist()] == [gone]
    assert appeared.shards() == {0}


def test_a_list_with_etags_causes_no_request_for_each_image(tmp_path: Path) -> None:
    """A million HEAD requests take minutes and cost half a dollar."""
    table = {"image_uri": ["s3://no-such/b.jpg", "s3://no-such/a.jpg"], "etag": ["e2", "e1"]}
    pq.write_table(pa.table(table | {"size_bytes": [2, 1]}), tmp_path / "list.parquet")
    found = select(str(tmp_path / "list.parquet"))
    assert found.listed.first(9)["etag"].to_pylist() == ["e1", "e2"]
    assert (found.num_images, found.size_bytes) == (2, 3)


def test_a_limit_keeps_the_first_uris(tmp_path: Path) -> None:
    touch(tmp_path, "c.png", "a.png", "b.png")
    assert names(select(str(tmp_path), 2)) == ["a.png", "b.png"]


def test_a_limit_on_a_bucket_lists_no_more_than_it_needs(
    bucket: str, s3_client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(8):
        s3_client.put_object(Bucket=bucket[5:], Key=f"{n}.jpg", Body=b"x")
    assert names(select(bucket, 3)) == ["0.jpg", "1.jpg", "2.jpg"]


ODD = [
    "a b.jpg",
    "a+b.jpg",
    "100%25.jpg",
    "caf\u00e9.jpg",
    "k=v.jpg",
    "x#y?z.jpg",
    "li\nne.jpg",
    "'q\".jpg",
]


def test_odd_names_are_planned_byte_for_byte(tmp_path: Path) -> None:
    touch(tmp_path / "in", *ODD)
    selection = select(str(tmp_path / "in"))
    assert names(selection) == sorted(ODD)
    planned = plan.extend(str(tmp_path / "out"), selection.listed, shard_size=3)
    back = [u for n in range(planned.num_shards) for u in planned.shard(n)["image_uri"].to_pylist()]
    assert [Path(uri).name for uri in back] == sorted(ODD)


def test_markers_are_counted_and_empty_objects_are_images(bucket: str, s3_client: Any) -> None:
    for key in ("in/", "in/deep/", "in/empty.jpg", "in/a.jpg"):
        s3_client.put_object(Bucket=bucket[5:], Key=key, Body=b"x" if key == "in/a.jpg" else b"")
    found = select(f"{bucket}/in")
    assert uris(found) == [f"{bucket}/in/a.jpg", f"{bucket}/in/empty.jpg"]
    assert found.left_out == {"folder markers": 2}


@pytest.mark.parametrize(
    ("include", "exclude", "found"),
    [
        (("*.scan",), (), ["b.scan", "d.scan"]),
        (("deep/*",), (), ["c.jpg", "d.scan"]),
        ((), ("deep/**",), ["a.png"]),
        ((), ("?.png", "c.*"), []),
        (("*",), ("*.txt", "deep/d*"), ["a.png", "b.scan", "c.jpg"]),
    ],
)
def test_filters_keep_what_they_match(
    tmp_path: Path, include: tuple[str, ...], exclude: tuple[str, ...], found: list[str]
) -> None:
    touch(tmp_path, "a.png", "b.scan", "notes.txt", "deep/c.jpg", "deep/d.scan")
    keep = Filter(include=include, exclude=exclude)
    if not found:
        with pytest.raises(UserError, match="2 filtered out"):
            select(str(tmp_path), keep=keep)
    else:
        assert names(select(str(tmp_path), keep=keep)) == found


def test_the_progress_of_a_listing_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
    touch(tmp_path, "a.png", "b.png")
    with caplog.at_level(logging.INFO, logger="pipeline"):
        select(str(tmp_path))
    assert "listing: 2 images, " in caplog.text


def test_a_prefix_without_an_image_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(UserError, match=r"no image \(1 without an image suffix\)"):
        select(str(tmp_path))


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
            check_apart(images, output)
    else:
        check_apart(images, output)
