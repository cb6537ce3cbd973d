"""The changed images, the images that are measured, and the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.config import OtherImagesConfig
from benchmarks.other_images import change, draw, table, unsampled
from benchmarks.trainings import run_once
from pipeline.annotations import read_labelled_images
from pipeline.errors import UserError


def small(tmp_path: Path) -> OtherImagesConfig:
    return OtherImagesConfig(checkpoint="model", images=4, sampled=2, output=tmp_path)


def test_colours_are_turned_and_contrast_is_halved() -> None:
    flat = Image.new("RGB", (9, 9), (200, 100, 0))
    assert change(flat, 1.5).getpixel((4, 4)) == (64 + 50, 64, 64 + 100)


def test_an_edge_is_blurred() -> None:
    edge = Image.new("RGB", (20, 9))
    edge.paste((200, 200, 200), (10, 0, 20, 9))
    sharp, soft = (np.asarray(change(edge, blur))[4, :, 0].tolist() for blur in (0, 1.5))
    assert (sharp[9], sharp[10]) == (64, 164)
    assert 64 < soft[8] < soft[9] < soft[10] < soft[11] < 164


def test_the_changed_scenes_have_the_same_names_and_labels(tmp_path: Path) -> None:
    draw(small(tmp_path))
    known, other = (
        read_labelled_images(str(tmp_path / name), "test").images for name in ("known", "other")
    )
    assert len(known) == 4
    for before, after in zip(known, other, strict=True):
        assert before.image_id == after.image_id
        np.testing.assert_array_equal(before.gt_boxes, after.gt_boxes)
        pixels = [np.asarray(Image.open(i.image_uri), np.int64) for i in (before, after)]
        assert np.abs(pixels[0] - pixels[1]).mean() > 10
    first = Path(other[0].image_uri).read_bytes()
    draw(small(tmp_path))  # a second call changes nothing again
    assert Path(other[0].image_uri).read_bytes() == first


def test_the_sampled_scenes_are_not_measured(tmp_path: Path) -> None:
    draw(small(tmp_path))
    (tmp_path / "sample").mkdir()
    drawn = [str(tmp_path / "other" / "JPEGImages" / f"{n:06d}.jpg") for n in (2, 0, 2)]
    pq.write_table(pa.table({"image_uri": drawn}), tmp_path / "sample" / "sample.parquet")
    assert unsampled(small(tmp_path)) == ["000001.jpg", "000003.jpg"]


def test_the_table_has_a_line_for_each_kind() -> None:
    row = {"precision": 0.5, "recall": None, "calibration_error": 0.25, "voc10": 0.75}
    lines = table({"known": row | {"warned": False}, "other": row | {"warned": True}}).splitlines()
    assert lines[2] == "| known | 0.500 | - | 0.250 | 0.750 | no |"
    assert lines[3].endswith("| yes |")


def test_a_job_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    log = tmp_path / "draw.log"
    flags = ["--output", str(tmp_path / "scenes"), "--train", "1", "--val", "1", "--test", "1"]
    run_once("draw_scenes", [*flags, "--score", "1"], log)
    made = log.stat().st_mtime_ns
    run_once("draw_scenes", ["--no-such-flag"], log)
    assert log.stat().st_mtime_ns == made


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(UserError, match="--sampled 0"):
        OtherImagesConfig(checkpoint="model", sampled=0)
