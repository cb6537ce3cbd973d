"""A prefix, a glob or a list selects images."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastrcnn.config import ProposalConfig
from pipeline import storage
from pipeline.errors import UserError
from pipeline.proposals.candidate import ReadSettings
from pipeline.proposals.reading import read_images, unplanned
from pipeline.record import plan
from pipeline.scoring.filters import Filter
from pipeline.scoring.selection import READ_LISTS, Selection, check_output_outside, select
from tests.pipeline.storage.web_server import Page, serving


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


SYSTEM = "left by macOS or Jupyter (._*, __MACOSX/, .ipynb_checkpoints/)"


@pytest.mark.parametrize("what", ["", "/*.jpg", "/**/*.jpg"])
def test_files_of_macos_and_jupyter_are_left_out_with_a_word(tmp_path: Path, what: str) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", "_b.jpg", ".c.jpg", "deep/d.jpg", "deep/._d.jpg")
    touch(
        tmp_path,
        "__MACOSX/a.jpg",
        "deep/.ipynb_checkpoints/d-checkpoint.jpg",
        "deep/__MACOSX2/e.jpg",
    )
    selection = select(str(tmp_path) + what)
    top, deep = [".c.jpg", "_b.jpg", "a.jpg"], ["d.jpg", "e.jpg"]
    assert sorted(names(selection)) == sorted(top if what == "/*.jpg" else top + deep)
    assert selection.left_out == {SYSTEM: 1 if what == "/*.jpg" else 4}


def test_a_file_of_macos_that_the_command_names_is_wanted(tmp_path: Path) -> None:
    touch(tmp_path, "__MACOSX/._a.jpg", "__MACOSX/b.jpg")
    assert names(select(str(tmp_path / "__MACOSX" / "._a.jpg"))) == ["._a.jpg"]
    assert names(select(str(tmp_path / "__MACOSX"))) == ["b.jpg"]
    (tmp_path / "list.txt").write_text(str(tmp_path / "__MACOSX" / "._a.jpg"))
    assert names(select(str(tmp_path / "list.txt"))) == ["._a.jpg"]


def test_phones_and_cameras_formats_are_listed(tmp_path: Path) -> None:
    files = ["a.HEIC", "b.heif", "c.HIF", "d.avif", "e.jp2", "f.j2k", "g.jpx", "h.jxl"]
    touch(tmp_path, *files)
    assert names(select(str(tmp_path))) == files


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
    plan.add_planned_images(planned, appeared)
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
        ("s3://b/list.parquet", "s3://b/list.parquet/out", True),
        ("s3://b/**.parquet", "s3://b/out", True),
        ("s3://b/*.parquet", "s3://b/out", False),
    ],
)
def test_an_output_inside_the_images_is_refused(images: str, output: str, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match="lies inside"):
            check_output_outside(images, output)
    else:
        check_output_outside(images, output)


def test_a_folder_or_a_glob_with_nothing_but_lists_is_read_as_lists(
    tmp_path: Path, bucket: str
) -> None:
    for place in (f"{tmp_path}/in", f"{bucket}/in"):
        storage.write_bytes(f"{place}/part-0.csv", b"uri,etag\ns3://none/a.jpg,e\n")
        storage.write_bytes(f"{place}/part-1.jsonl", b'{"uri": "s3://none/b.jpg", "etag": "e"}')
        storage.write_bytes(f"{place}/_SUCCESS", b"")
        for images in (place, f"{place}/", f"{place}/part-*", f"{place}/*"):
            assert uris(select(images)) == ["s3://none/a.jpg", "s3://none/b.jpg"]
        storage.write_bytes(f"{place}/c.jpg", b"x")
        assert uris(select(place)) == [f"{place}/c.jpg"]


def test_a_folder_of_notes_is_no_folder_of_lists(tmp_path: Path) -> None:
    touch(tmp_path, "README.txt", "notes.txt")
    with pytest.raises(UserError, match=r"2 without an image suffix.*Lists are \.txt, \.csv"):
        select(str(tmp_path))
    (tmp_path / "README.txt").write_text("s3://none/a.jpg\n")
    (tmp_path / "notes.txt").write_text("s3://none/a.jpg\ns3://none/b.jpg\n")
    assert uris(select(f"{tmp_path}/*.txt")) == ["s3://none/a.jpg", "s3://none/b.jpg"]


def test_entries_that_nothing_opens_are_rows_beside_sound_ones(tmp_path: Path) -> None:
    """Each has a status and a cause, with limits and without."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    bad = ["reference://b/x.png", "nope://x", "dask://x/y.png", "zip://a.png", "s3://", "s3://b"]
    bad += ["https://[::1/x.png", "https:///x.png", "file:///none.png", f"{tmp_path}/pipe.png"]
    (tmp_path / "list.txt").write_text("\n".join([*bad, "a.png", "a.png", "x\0y.png"]) + "\n")
    for any_scheme in (True, False):
        access = storage.Access(any_scheme=any_scheme)
        selection = select(str(tmp_path / "list.txt"), lists=replace(READ_LISTS, access=access))
        settings = ReadSettings(
            proposals=ProposalConfig(name="grid", max_boxes=4), access=selection.access
        )
        rows = read_images(unplanned(selection.listed.first(99)), settings).to_pylist()
        selection.listed.close()
        assert len(rows) == len(bad) + 2
        by_uri = {row["image_uri"]: row for row in rows}
        assert by_uri.pop(f"{tmp_path}/a.png")["status"] == "ok"
        assert {row["status"] for row in by_uri.values()} <= {"missing", "denied", "unreadable"}
        assert all(row["error"] for row in by_uri.values())
        assert by_uri["nope://x"]["status"] == ("unreadable" if any_scheme else "denied")


def test_the_scheme_of_a_prefix_is_not_limited_as_that_of_an_entry_is() -> None:
    storage.write_bytes("memory://in/a.png", b"x")
    strict = replace(READ_LISTS, access=storage.Access(any_scheme=False))
    selection = select("memory://in", lists=strict)
    assert storage.read_bytes(*uris(selection), access=selection.access) == b"x"


def test_web_addresses_are_limited_without_a_list_too() -> None:
    strict = replace(READ_LISTS, access=storage.Access(http=False, private_hosts=False))
    with serving({"/a.jpg": Page(b"x")}) as site:
        for name in ("a.jpg", "list.csv"):
            with pytest.raises(UserError, match="--allow-http"):
                select(f"{site.address}/{name}", lists=strict)
        strict = replace(strict, access=replace(strict.access, http=True))
        for name in ("a.jpg", "list.csv"):
            with pytest.raises(UserError, match="--allow-private-hosts"):
                select(f"{site.address}/{name}", lists=strict)
        assert site.requests == []
        assert uris(select(f"{site.address}/a.jpg")) == [f"{site.address}/a.jpg"]
