from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from defusedxml import ElementTree

from pipeline.draw_scenes import (
    BROKEN,
    DrawConfig,
    draw_dataset,
    jpeg_bytes,
    voc_annotation,
)
from pipeline.drawing.scenes import Scene, draw_scene, scene_rng
from pipeline.errors import UserError
from pipeline.images import ImageError, decode

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = DrawConfig(output="unused", train=6, val=2, test=5, score=20, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("drawn")
    draw_dataset(CONFIG, target)
    return target


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_splits_share_no_image_and_every_image_has_an_annotation(folder: Path) -> None:
    shapes = folder / "shapes"
    splits = {p.stem: p.read_text().split() for p in (shapes / "ImageSets/Main").iterdir()}
    assert {name: len(stems) for name, stems in splits.items()} == {"train": 6, "val": 2, "test": 5}
    stems = sorted(stem for part in splits.values() for stem in part)
    assert stems == [f"{i:06d}" for i in range(13)]
    assert sorted(p.stem for p in (shapes / "JPEGImages").glob("*.jpg")) == stems
    assert sorted(p.stem for p in (shapes / "Annotations").glob("*.xml")) == stems


def test_annotations_describe_the_scene(folder: Path) -> None:
    for index in range(13):
        scene = draw_scene(scene_rng(3, index))
        root = ElementTree.parse(folder / "shapes" / "Annotations" / f"{index:06d}.xml").getroot()
        height, width = scene.pixels.shape[:2]
        assert (root.findtext("size/height"), root.findtext("size/width")) == (
            str(height),
            str(width),
        )
        assert root.findtext("filename") == f"{index:06d}.jpg"
        corners = [
            [float(o.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax")]
            for o in root.iter("object")
        ]
        # The reader's conversion (design contract, section 1).
        boxes = np.array(corners).reshape(-1, 4) - (1, 1, 0, 0)
        assert np.array_equal(boxes, scene.boxes)
        assert tuple(o.findtext("name") for o in root.iter("object")) == scene.labels


def test_corners_are_written_one_based_and_inclusive() -> None:
    scene = Scene(
        pixels=np.zeros((50, 40, 3), dtype=np.uint8),
        boxes=np.array([[0, 10, 20, 30]], dtype=np.float32),
        labels=("ring",),
        masks=np.zeros((1, 50, 40), dtype=bool),
    )
    root = ElementTree.fromstring(voc_annotation("a", scene))
    assert [root.findtext(f"object/bndbox/{c}") for c in ("xmin", "ymin", "xmax", "ymax")] == [
        "1",
        "11",
        "20",
        "30",
    ]
    assert root.findtext("object/truncated") == "1"


def test_the_inbox_holds_test_images_new_scenes_and_a_tenth_of_broken_files(folder: Path) -> None:
    inbox = files(folder / "inbox")
    broken = {name for name in inbox if name.startswith("broken-")}
    assert len(inbox) == 20
    assert len(broken) == 2
    images = files(folder / "shapes" / "JPEGImages")
    for index in range(8, 13):
        assert inbox[f"{index:06d}.jpg"] == images[f"{index:06d}.jpg"]
    unseen = sorted(inbox.keys() - images.keys() - broken)
    assert unseen == [f"{index:06d}.jpg" for index in range(13, 13 + 13)]
    for name in inbox.keys() - broken:
        assert decode(inbox[name]).pixels.ndim == 3


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    draw_dataset(CONFIG, tmp_path / "again")
    assert files(tmp_path / "again") == files(folder)


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_refused_by_the_decoder_that_scoring_uses(fault: str) -> None:
    jpeg = jpeg_bytes(draw_scene(scene_rng(0, 0)).pixels)
    assert decode(jpeg).pixels.ndim == 3
    with pytest.raises(ImageError) as refused:
        decode(BROKEN[fault](jpeg))
    assert refused.value.status == ("too_large" if fault == "huge-size" else "undecodable")


def test_a_huge_picture_is_a_small_file_with_a_valid_header() -> None:
    data = BROKEN["huge-size"](b"")
    assert len(data) < 200
    with pytest.raises(ImageError, match="40000 x 40000"):
        decode(data)


def test_a_negative_number_of_images_is_refused() -> None:
    with pytest.raises(
        UserError,
        match="--val -1: expected 0 or more, and at most 2147483647. Give another number.",
    ):
        DrawConfig(output="unused", val=-1)


def test_the_job_writes_both_folders(tmp_path: Path) -> None:
    command = "--train 2 --val 1 --test 1 --score 3 --seed 9".split()
    subprocess.run(
        [sys.executable, REPOSITORY / "jobs/draw_scenes.py", "--output", tmp_path, *command],
        check=True,
        capture_output=True,
    )
    assert len(list((tmp_path / "shapes" / "JPEGImages").iterdir())) == 4
    assert len(list((tmp_path / "inbox").iterdir())) == 3
