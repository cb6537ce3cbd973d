"""The files of a data set: which are images, and which do not count."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from pipeline.annotations import read_labelled_images
from pipeline.annotations.tree import list_tree


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_files_of_macos_and_jupyter_are_neither_images_nor_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.jpg", "._a.jpg", "a.txt", "._a.txt")
    touch(tmp_path, "__MACOSX/a.jpg", ".ipynb_checkpoints/a-checkpoint.txt")
    with caplog.at_level(logging.INFO):
        tree = list_tree(str(tmp_path))
    assert tree.paths == ("a.jpg", "a.txt")
    assert "left out 4 files of macOS or Jupyter" in caplog.text


def test_the_original_of_a_phone_does_not_count_beside_a_copy(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic", "a.jpg", "b.HEIC", "c.jpg", "c.png", "d/a.avif")
    tree = list_tree(str(tmp_path))
    assert tree.images_by_stem("") == {
        "a": ["a.jpg"],
        "b": ["b.HEIC"],
        "c": ["c.jpg", "c.png"],
        "d/a": ["d/a.avif"],
    }
    assert tree.images("") == ["a.jpg", "b.HEIC", "c.jpg", "c.png", "d/a.avif"]


def test_yolo_counts_a_picture_with_its_original_once(tmp_path: Path) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(tmp_path / "images/train/a.jpg")
    touch(tmp_path, "images/train/a.heic", "images/train/._a.jpg", "labels/train/._a.txt")
    (tmp_path / "labels/train").mkdir(parents=True, exist_ok=True)
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [dog]\n")
    labelled = read_labelled_images(str(tmp_path), "train")
    assert [image.image_uri for image in labelled.images] == [f"{tmp_path}/images/train/a.jpg"]
    assert labelled.problems == ()
