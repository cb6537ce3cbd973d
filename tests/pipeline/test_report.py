"""The counts, the pictures and the file of a report."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.config import ReportConfig
from pipeline.errors import UserError
from pipeline.report import run
from pipeline.results.figures import SIZE_BINS, figures
from pipeline.results.gallery import gallery
from pipeline.results.page import page
from pipeline.results.scored import find_run
from pipeline.results.selection import select_rows
from pipeline.results.tables import RunTables, load_run
from tests.pipeline.scored_runs import image, write_shard

JOB = Path(__file__).resolve().parents[2] / "jobs" / "report.py"
SQUARE = (10.0, 10.0, 42.0, 42.0)  # 32 x 32


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[RunTables]:
    """Ten images, one of them scored twice, in two shards."""
    half_hour = 0.5
    write_shard(
        str(tmp_path),
        image("s3://b/0.jpg", ("cat", 0.995, SQUARE), ("cat", 1.0, SQUARE), ("dog", 0.5, SQUARE)),
        image("s3://b/1.jpg", ("dog", 0.505, (0, 0, 640, 480))),
        image("s3://b/2.jpg", hours=half_hour, error="first frame of 12"),
        image("s3://b/3.jpg", ("dog", 0.1, (5, 5, 5, 9)), hours=1),
        image("s3://b/9.jpg", ("dog", 0.9, SQUARE)),
    )
    broken = [
        image(
            f"s3://b/{n}.jpg",
            status="undecodable",
            error=f"s3://b/{n}.jpg: truncated after {n} bytes",
            hours=1,
        )
        for n in (4, 5, 6)
    ]
    write_shard(
        str(tmp_path),
        *broken,
        image("s3://b/7.jpg", status="missing", error="s3://b/7.jpg: no such key abc1", hours=1),
        image("s3://b/8.jpg", status="changed", error="was e1, is e2", hours=-999),
        image("s3://b/9.jpg", hours=1),
        shard=1,
    )
    with load_run(find_run(str(tmp_path)), memory_gib=0.5, temp_folder=None) as loaded:
        yield loaded


def test_images_are_counted_by_status_and_boxes_by_class(tables: RunTables) -> None:
    found = figures(tables)
    assert found["statuses"] == [("ok", 5), ("undecodable", 3), ("changed", 1), ("missing", 1)]
    assert (found["images"], found["older_rows"]) == (10, 1)
    assert (found["boxes"], found["shown"], found["images_with_boxes"]) == (5, 4, 2)
    assert (found["classes"], found["points"]) == (["cat", "dog"], [0.5, 0.5])
    assert (found["class_shown"], found["class_images"]) == ([2, 2], [1, 2])


def test_each_class_starts_at_its_operating_point(tables: RunTables) -> None:
    tables.start_at({"cat": 0.999, "dog": 0.0})
    found = figures(tables)
    assert (found["boxes"], found["shown"], found["images_with_boxes"]) == (5, 4, 3)
    assert (found["class_shown"], found["class_images"]) == ([1, 3], [1, 3])
    assert found["per_image"]["counts"][:4] == [2, 2, 1, 0]


def test_scores_and_sizes_fall_into_their_bins(tables: RunTables) -> None:
    found = figures(tables)
    cat, dog = found["scores"]
    assert {i: n for i, n in enumerate(cat) if n} == {99: 2}  # a score of 1 has no bin of its own
    assert {i: n for i, n in enumerate(dog) if n} == {10: 1, 50: 2}
    cat, dog = found["sizes"]
    assert {i: n for i, n in enumerate(cat) if n} == {10: 2}  # 2^(10/2) = 32
    # 640 x 480: 2^(18/2) = 512 <= 554 < 724. The box without an area is below score .5.
    assert {i: n for i, n in enumerate(dog) if n} == {10: 1, 18: 1}
    assert len(cat) == SIZE_BINS
    tables.start_at({"cat": 0.0, "dog": 0.0})
    assert {i: n for i, n in enumerate(figures(tables)["sizes"][1]) if n} == {0: 1, 10: 1, 18: 1}


def test_images_are_counted_by_their_best_score(tables: RunTables) -> None:
    found = figures(tables)
    cat, dog = found["image_scores"]
    assert {i: n for i, n in enumerate(cat) if n} == {99: 1}
    assert {i: n for i, n in enumerate(dog) if n} == {10: 1, 50: 2}
    # Image 0 counts with its cat, not with its dog.
    assert {i: n for i, n in enumerate(found["best_scores"]) if n} == {10: 1, 50: 1, 99: 1}
    for first in range(100):
        ((images,),) = tables.rows(
            "SELECT count(DISTINCT row) FROM boxes WHERE floor(score * 100) >= $1",
            (min(first, 99),),
        )
        assert sum(found["best_scores"][first:]) == (images if first < 99 else 1)


def test_boxes_per_image_are_counted_for_images_with_a_result(tables: RunTables) -> None:
    counts = figures(tables)["per_image"]
    assert counts["names"][:7] == ["0", "1", "2", "3", "4", "5", "6–10"]
    assert counts["names"][-1] == "101+"
    assert counts["counts"] == [3, 1, 0, 1] + [0] * 7


def test_throughput_leaves_out_rows_with_the_time_of_the_plan(tables: RunTables) -> None:
    time = figures(tables)["throughput"]
    assert (time["start"], time["step_s"]) == ("2026-01-01T00:00:00+00:00", 60)
    assert [(i, n) for i, n in enumerate(time["ok"]) if n] == [(0, 2), (30, 1), (60, 2)]
    assert [(i, n) for i, n in enumerate(time["failed"]) if n] == [(60, 4)]


def test_failures_of_one_cause_are_counted_together_with_examples(tables: RunTables) -> None:
    found = figures(tables)
    causes = {cause.pop("cause"): cause for cause in found["failures"]["causes"]}
    assert list(causes) == ["truncated after # bytes", "was e1, is e2", "no such key abc1"]
    assert causes["truncated after # bytes"] == {
        "status": "undecodable",
        "images": 3,
        "examples": ["s3://b/4.jpg", "s3://b/5.jpg", "s3://b/6.jpg"],
    }
    (note,) = found["notes"]["causes"]
    assert (note["cause"], note["examples"]) == ("first frame of 12", ["s3://b/2.jpg"])


# --- pictures ------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Iterator[RunTables]:
    """200 images of cats with all scores, one dog, 20 images without a box; real files, turned by EXIF."""
    folder = tmp_path / "images"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: 640 wide and 480 high once upright
    noise = np.random.default_rng(0).integers(0, 255, (640, 480, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.jpg", exif=exif, comment=b"a secret")
    rows = []
    for n in range(221):
        path = folder / f"{n:03d}.jpg"
        os.link(folder / "noise.jpg", path)
        box = (0.0, 0.0, 320.0, 240.0)
        found = [("cat", (n + 0.5) / 200, box)] if n < 200 else [("dog", 0.5, box)] * (n == 200)
        rows.append(image(str(path), *found, etag=None))
    write_shard(str(tmp_path), *rows)
    with load_run(find_run(str(tmp_path)), memory_gib=0.5, temp_folder=None) as loaded:
        loaded.start_at({"cat": 0, "dog": 0})
        yield loaded


def test_pictures_show_highest_and_lowest_scores_of_every_class_and_images_without_a_box(
    many: RunTables,
) -> None:
    chosen = select_rows(many, 16)
    assert len(chosen) == len(set(chosen)) == 16
    assert 200 in chosen  # the only dog
    cats = [row for row in chosen if row < 200]
    assert {row // 20 for row in cats} == set(range(10))  # each tenth of the score
    assert sum(row > 200 for row in chosen) == 2  # one in eight
    assert select_rows(many, 16) == chosen
    assert select_rows(many, 0) == []
    assert sorted(select_rows(many, 1000)) == list(range(221))


def test_as_many_pictures_are_selected_as_are_asked_for(tmp_path: Path) -> None:
    """Images with many boxes of one class and score take one place each."""
    rows = [image(f"{n:02d}.jpg", *[("cat", 0.95, SQUARE)] * 30, etag=None) for n in range(40)]
    write_shard(str(tmp_path), *rows)
    with load_run(find_run(str(tmp_path)), memory_gib=0.5, temp_folder=None) as loaded:
        for count in (1, 7, 16, 39):
            assert len(set(select_rows(loaded, count))) == count
        assert len(set(select_rows(loaded, 50))) == 40


def test_preferred_images_take_three_quarters_in_turns(many: RunTables) -> None:
    chosen = select_rows(many, 16, ([5, 6, 7, 8, 9, 10], [210, 5], list(range(100, 130))))
    assert chosen[:8] == [5, 210, 100, 6, 101, 7, 102, 8]
    assert len(set(chosen)) == 16
    assert 200 in chosen  # the only dog is among the others
    assert select_rows(many, 4, ([5, 6, 7, 8], []))[:3] == [5, 6, 7]
    assert 8 not in select_rows(many, 4, ([5, 6, 7, 8], []))


def test_pictures_start_at_the_operating_point(many: RunTables) -> None:
    many.start_at({"cat": 0.6, "dog": 0.9})
    chosen = select_rows(many, 16)
    cats = [row for row in chosen if 120 <= row < 200]
    assert {row // 20 for row in cats} == {6, 7, 8, 9}
    # Images that nothing was detected in come before those whose boxes are all below the point.
    assert sorted(set(chosen) - set(cats))[0] > 200
    assert len(set(chosen) - set(cats)) == 2
    whole = select_rows(many, 1000)
    assert sorted(whole) == list(range(221))


def test_pictures_are_small_upright_and_bounded_in_bytes(many: RunTables) -> None:
    rows = select_rows(many, 6)
    whole = gallery(many, rows, side=100, crops=0, max_bytes=10**6)
    assert (len(whole["items"]), whole["unseen"], whole["left_out"]) == (6, [], 0)
    item = whole["items"][0]
    data = base64.b64decode(item["src"].removeprefix("data:image/jpeg;base64,"))
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (100, 75)
    assert (dict(picture.getexif()), b"a secret" in data) == ({}, False)
    assert (item["width"], item["height"]) == (640, 480)
    assert [box[0] for box in item["boxes"]] == [0]
    assert item["boxes"][0][2:] == [0, 0, 320, 240, None, -1, None]
    room = 2 * len(item["src"]) + 200
    part = gallery(many, rows, side=100, crops=0, max_bytes=room)
    assert (len(part["items"]), part["left_out"]) == (2, 4)


def test_crops_have_the_pixels_of_the_image_and_fit_into_the_room(many: RunTables) -> None:
    rows = select_rows(many, 4)
    whole = gallery(many, rows, side=100, crops=2, max_bytes=10**7)["items"]
    (crop,) = whole[0]["crops"]
    assert crop[:4] == [0, 0, 400, 320]  # a quarter of the longer side, and the edge of the image
    picture = Image.open(io.BytesIO(base64.b64decode(crop[4].partition(",")[2])))
    assert picture.size == (400, 320)
    thumbnails = sum(len(item["src"]) + 60 for item in whole)
    part = gallery(many, rows, side=100, crops=2, max_bytes=thumbnails + len(crop[4]) + 99)["items"]
    assert [len(item["crops"]) for item in part] == [1, 0, 0, 0]
    assert gallery(many, rows, side=640, crops=2, max_bytes=10**7)["items"][0]["crops"] == []


def test_a_picture_has_all_boxes_above_the_point_and_says_how_many_others_are_left_out(
    tmp_path: Path,
) -> None:
    Image.new("RGB", (640, 480)).save(tmp_path / "1.jpg")
    found = [("cat", round(0.6 + n / 1000, 3), SQUARE) for n in range(100)]
    found += [("dog", round(0.1 + n / 1000, 3), SQUARE) for n in range(50)]
    write_shard(str(tmp_path), image(str(tmp_path / "1.jpg"), *found, etag=None))
    with load_run(find_run(str(tmp_path)), memory_gib=0.5, temp_folder=None) as loaded:
        for points, shown, hidden in (
            ({"cat": 0.5, "dog": 0.5}, 100, 50),
            ({"cat": 0.9, "dog": 0.12}, 90, 60),
        ):
            loaded.start_at(points)
            (item,) = gallery(loaded, [0], side=100, crops=0, max_bytes=10**6)["items"]
            assert (len(item["boxes"]), item["hidden"]) == (shown, hidden)
            above = [box for box in item["boxes"] if box[1] >= points[("cat", "dog")[box[0]]]]
            assert len(above) == sum(score >= points[name] for name, score, _ in found)


def test_a_missing_picture_is_named_and_left_out(many: RunTables) -> None:
    for row in select_rows(many, 3)[:2]:
        (tuple_,) = many.rows("SELECT image_uri FROM images WHERE row = $1", (row,))
        Path(tuple_[0]).unlink()
    found = gallery(many, select_rows(many, 3), side=100, crops=4, max_bytes=10**6)
    assert len(found["items"]) == 1
    assert ["No such file" in cause for _, cause in found["unseen"]] == [True, True]


# --- the page ------------------------------------------------------------------------------------


def test_the_file_needs_no_other_file_and_allows_only_its_script() -> None:
    names = ["</script><script>alert(1)</script>", "{{script}}", "<!--", "a\u2028b", "🦊 & ü"]
    text = page("<b>T</b> & {{data}}", {"names": names}).decode()
    assert "<title>&lt;b&gt;T&lt;/b&gt; &amp; {{data}}</title>" in text
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert not set("<>&\u2028") & set(data[1])
    assert json.loads(data[1]) == {"names": names}
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)


def test_the_page_is_written_to_the_given_output(bucket: str) -> None:
    write_shard(f"{bucket}/out", image("s3://no-such-bucket/1.jpg", ("cat", 0.5, SQUARE)))
    summary = run(ReportConfig(scored=f"{bucket}/out", output=f"{bucket}/out", gallery=0))
    assert summary.uri == f"{bucket}/out/report/r1.html"
    assert len(storage.read_bytes(summary.uri)) == summary.size_bytes
    assert (summary.images, summary.boxes, summary.pictures) == (1, 1, 0)
    named = run(ReportConfig(scored=f"{bucket}/out", output=f"{bucket}/look.html", gallery=0))
    assert storage.exists(f"{bucket}/look.html")
    assert named.uri == f"{bucket}/look.html"
    assert len(storage.list_objects(f"{bucket}/out/scored")) == 1


def test_a_run_of_broken_images_alone_gives_a_page(tmp_path: Path) -> None:
    row: dict[str, Any] = image("1.jpg", status="failed", error=None) | {"scored_at": None}
    write_shard(str(tmp_path), row)
    summary = run(ReportConfig(scored=str(tmp_path), output=str(tmp_path)))
    assert (summary.images, summary.boxes) == (1, 0)
    assert b"no cause was recorded" in Path(summary.uri).read_bytes()


def _start_of(folder: Path, points: dict[str, Any] | None) -> dict[str, Any]:
    """The data of a page of one image, by the operating points of the checkpoint."""
    write_shard(str(folder), image("1.jpg", ("cat", 0.4, SQUARE), ("dog", 0.45, SQUARE)))
    if points is not None:
        config = {"config": {}, "checkpoint": {"operating_points": points}}
        storage.write_bytes(f"{folder}/runs/r1/config.json", json.dumps(config).encode())
    summary = run(ReportConfig(scored=str(folder), output=str(folder), gallery=0))
    text = Path(summary.uri).read_text()
    data: dict[str, Any] = json.loads(re.findall(r'id="data">(.*?)</script>', text)[0])
    boxes = "1 box" if data["shown"] == 1 else f"{data['shown']} boxes"
    assert f"<title>1 image, {boxes}</title>" in text
    assert summary.boxes == data["boxes"] == 2
    return data


def test_the_page_starts_at_the_operating_points_of_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = _start_of(tmp_path / "without", None)
    assert (data["has_points"], data["points"], data["shown"]) == (False, [0.5, 0.5], 0)
    assert "starts with the 0 from score 0.5 on" in caplog.text
    data = _start_of(tmp_path / "with", {"cat": 0.25})
    assert (data["has_points"], data["points"], data["shown"]) == (True, [0.25, 0.5], 1)
    assert "starts with the 1 from the operating points of the checkpoint on" in caplog.text
    with pytest.raises(UserError, match="operating points that are no scores of the classes cat"):
        _start_of(tmp_path / "wrong", {"owl": 0.25})


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    write_shard(str(tmp_path), image("1.jpg"))
    summary = run(ReportConfig(scored=str(tmp_path), output=str(tmp_path), dry_run=True))
    assert (summary.images, summary.size_bytes) == (1, 0)
    assert not (tmp_path / "report").exists()


def test_the_page_shows_the_accuracy_if_labels_are_given(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / "data"
        (folder / "Annotations").mkdir(parents=True, exist_ok=True)
        (folder / "JPEGImages").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(
            "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>"
        )
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("a\nb\n")
    uris = [str(folder / "JPEGImages" / f"{name}.jpg") for name in ("a", "b")]
    wrong, right = ("cat", 0.75, (30.0, 0.0, 60.0, 40.0)), (0.0, 0.0, 20.0, 20.0)
    write_shard(
        str(tmp_path),
        image(uris[0], ("cat", 0.9, right), etag=None),
        image(uris[1], wrong, ("cat", 0.5, right), etag=None),
    )
    summary = run(ReportConfig(scored=str(tmp_path), output=str(tmp_path), data=str(folder)))
    text = Path(summary.uri).read_text()
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text)[0])
    found = data["evaluation"]
    assert (found["split"], found["images"]) == ("test", 2)
    cat, dog = found["classes"]
    assert (cat["objects"], dog["objects"], dog["voc10"]) == (2, 0, None)
    assert cat["voc10"] == pytest.approx(0.5 + 0.5 * 2 / 3, abs=1e-5)
    # Right, wrong, right: precision 1 up to recall .5, then 2/3 as far as 1.
    assert cat["curve"] == [1.0] * 51 + [0.6667] * 50
    assert (found["true"], found["false"], found["missed"]) == (2, 1, 0)
    assert (cat["counts"], dog["counts"]) == ([2, 1, 0], [0, 0, 0])
    assert found["confusion"] == [[-1, 0, 1], [0, 0, 2]]
    first = next(item for item in data["gallery"]["items"] if item["uri"] == uris[1])
    assert first["truth"] == [[0, 0, 0, 20, 20]]
    assert [box[6:8] for box in first["boxes"]] == [[1, -1], [0, 0]]  # false, then true


def test_the_job_prints_one_line_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert os.access(JOB, os.X_OK)
    write_shard(str(tmp_path), image("1.jpg"))
    for flags, message in (
        (("--scored", f"{tmp_path}/no"), f"error: {tmp_path}/no: names no object"),
        (("--scored", f"{tmp_path}", "--gallery", "-1"), "error: --gallery -1: expected 0 or more"),
        (("--scored", f"{tmp_path}", "--data", f"{tmp_path}/no"), f"error: {tmp_path}/no"),
    ):
        monkeypatch.setattr(sys, "argv", [str(JOB), *flags, "--output", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(JOB), run_name="__main__")
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_missing_bucket_is_reported_before_the_rows_are_counted(s3: str, tmp_path: Path) -> None:
    write_shard(str(tmp_path), image("1.jpg"))
    with pytest.raises(UserError, match="no-such-bucket"):
        run(ReportConfig(scored=str(tmp_path), output="s3://no-such-bucket/out"))
