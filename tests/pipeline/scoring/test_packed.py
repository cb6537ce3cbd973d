"""Archives are opened where something names them, and their members are planned in order."""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.record import plan
from pipeline.schema import IMAGE, PLACE, PLAN
from pipeline.scoring.filters import Filter
from pipeline.scoring.packed import ArchiveOptions
from pipeline.scoring.selection import Selection, select
from pipeline.storage.chains import member_part
from tests.pipeline.storage.archives.hostile import BODY, link, parquet_of, tar_of, zip_of

OPEN_ALL = ArchiveOptions(open_all=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A loose image, and two archives with images and notes."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "loose.jpg").write_bytes(BODY)
    members = (("b/2.jpg", BODY), ("a/1.jpg", BODY), ("a/1.txt", b"x"), ("._1.jpg", b"x"))
    (folder / "x.tar").write_bytes(tar_of(*members))
    (folder / "y.zip").write_bytes(zip_of(("z.png", BODY)))
    return folder


def names(selection: Selection) -> list[str]:
    """The names of the images, in the order of a plan."""
    uris = selection.listed.first(1000)["image_uri"].to_pylist()
    assert len(uris) == selection.num_images
    return [member_part(uri).rpartition("/")[2] for uri in uris]


def test_below_a_prefix_archives_are_counted_and_left_out(folder: Path) -> None:
    selection = select(str(folder))
    assert names(selection) == ["loose.jpg"]
    assert selection.left_out == {"archives (--archives opens them)": 2}


def test_archives_opens_them(folder: Path) -> None:
    selection = select(str(folder), archives=OPEN_ALL)
    assert names(selection) == ["loose.jpg", "2.jpg", "1.jpg", "z.png"]  # the order in the archive
    assert sum(selection.left_out.values()) == 2
    assert "filtered out" not in selection.left_out


@pytest.mark.parametrize("what", ["x.tar", "*.tar", "tar://**::*.tar"])
def test_a_name_a_glob_and_a_chain_open_archives(
    folder: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = names(select(what))
    assert found[:2] == ["2.jpg", "1.jpg"]


def test_a_chained_glob_selects_members(folder: Path) -> None:
    assert names(select(f"tar://a/*.jpg::{folder}/x.tar")) == ["1.jpg"]
    with pytest.raises(UserError, match="no .zip"):
        select(f"zip://a/*.jpg::{folder}/x.tar")


def test_include_names_the_archives_or_else_the_members(folder: Path) -> None:
    assert names(select(str(folder), keep=Filter(include=("*.tar",)))) == ["2.jpg", "1.jpg"]
    assert names(select(f"{folder}/x.tar", keep=Filter(include=("a/*.jpg",)))) == ["1.jpg"]
    assert names(select(f"{folder}/*.tar", keep=Filter(include=("1.*",)))) == ["1.jpg", "1.txt"]


def test_patterns_match_names_that_begin_with_a_dot_and_a_slash(tmp_path: Path) -> None:
    """As ``tar -c .`` writes them."""
    (tmp_path / "x.tar").write_bytes(tar_of(("./a/1.jpg", BODY), ("./b/2.jpg", BODY)))
    keep = Filter(include=("a/*",))
    assert names(select(f"{tmp_path}/x.tar", keep=keep)) == ["1.jpg"]
    assert names(select(f"{tmp_path}/x.tar", keep=Filter(exclude=("a/*",)))) == ["2.jpg"]
    for name in ("a/1.jpg", "./a/1.jpg", "a/*", "**/1.jpg"):
        assert names(select(f"tar://{name}::{tmp_path}/x.tar")) == ["1.jpg"]


def test_filters_see_the_names_of_members(folder: Path) -> None:
    keep = Filter(include=("a/*.txt",))
    assert names(select(f"{folder}/x.tar", keep=Filter(exclude=("1.*",)))) == ["2.jpg"]
    assert names(select(str(folder), keep=keep, archives=OPEN_ALL)) == ["1.txt"]


def test_a_list_names_archives_and_members(folder: Path) -> None:
    lines = ["loose.jpg", f"tar://a/1.jpg::{folder}/x.tar", "y.zip", f"tar://no::{folder}/x.tar"]
    (folder / "list.txt").write_text("\n".join(lines))
    selection = select(f"{folder}/list.txt")
    rows = {member_part(r["image_uri"]): r for r in selection.listed.first(9).to_pylist()}
    assert rows.keys() == {f"{folder}/loose.jpg", "a/1.jpg", "z.png", "no"}
    assert rows["a/1.jpg"]["offset"] is not None
    assert rows["no"]["etag"] is None


def test_a_compressed_tar_is_refused_with_the_command_that_repacks_it(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    with pytest.raises(UserError, match=r"jobs/pack.py --images '.*x.tar.gz'"):
        select(str(path))


def test_a_parquet_file_is_a_list_if_it_has_uris_and_else_images(tmp_path: Path) -> None:
    (tmp_path / "images.parquet").write_bytes(parquet_of([BODY, BODY]))
    (tmp_path / "a.jpg").write_bytes(BODY)
    pq.write_table(pa.table({"url": ["a.jpg"], "thumb": [b"x"]}), tmp_path / "list.parquet")
    pq.write_table(pa.table({"a": [b"x"], "b": [b"x"]}), tmp_path / "two.parquet")
    assert names(select(f"{tmp_path}/images.parquet")) == ["0", "1"]
    assert names(select(f"{tmp_path}/list.parquet")) == ["a.jpg"]
    with pytest.raises(UserError, match=r"2 columns of bytes.*a \(binary\), b \(binary\)"):
        select(f"{tmp_path}/two.parquet")
    one = ArchiveOptions(image_column="b")
    assert names(select(f"{tmp_path}/two.parquet", archives=one)) == ["0"]
    assert names(select(f"{tmp_path}/list.parquet", archives=ArchiveOptions(image_column="thumb")))


def test_of_a_double_name_the_last_counts_and_the_log_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of(("a.jpg", b"old"), ("a.jpg", BODY)))
    with caplog.at_level(logging.WARNING):
        (row,) = select(str(path)).listed.first(9).to_pylist()
    assert row["size_bytes"] == len(BODY)
    assert "tar://a.jpg" in caplog.text


def test_a_plan_keeps_places_and_one_without_archives_is_as_before(
    folder: Path, tmp_path: Path
) -> None:
    loose = plan.extend(f"{tmp_path}/1", select(str(folder)).listed, shard_size=10)
    packed = plan.extend(
        f"{tmp_path}/2", select(str(folder), archives=OPEN_ALL).listed, shard_size=10
    )
    assert pq.read_schema(parts(tmp_path / "1")).names == IMAGE.names
    assert pq.read_schema(parts(tmp_path / "2")).names == PLAN.names
    assert all(field.nullable for field in PLACE)
    assert '"format_version": 1' in (tmp_path / "1/plans/000001.json").read_text()
    assert '"format_version": 3' in (tmp_path / "2/plans/000001.json").read_text()
    rows = packed.shard(0).to_pylist()
    assert [row["offset"] is None for row in rows] == [True, False, False, False]
    assert loose.shard(0)["offset"].to_pylist() == [None]


def parts(output: Path) -> Path:
    (path,) = (output / "plans/parts").iterdir()
    return path


def test_an_appended_archive_is_planned_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of(("a.jpg", BODY)))
    plan.extend(f"{tmp_path}/out", select(str(path)).listed, shard_size=10)
    path.write_bytes(tar_of(("a.jpg", BODY), ("b.jpg", BODY), link("c.jpg", "a.jpg")))
    again = plan.extend(f"{tmp_path}/out", select(str(path)).listed, shard_size=10)
    assert [generation.rows for generation in again.generations] == [1, 3]


def test_a_limit_takes_the_first_members_of_the_first_archive(folder: Path) -> None:
    assert names(select(f"{folder}/*.tar", 1)) == ["2.jpg"]
    assert names(select(str(folder), 2, archives=OPEN_ALL)) == ["loose.jpg", "2.jpg"]
