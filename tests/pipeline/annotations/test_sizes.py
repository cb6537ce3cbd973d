"""Tests of stated image sizes against decoded images, and of boxes that are turned upright."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.annotations import LabelledImage
from pipeline.annotations.sizes import compare_sizes, turned
from pipeline.images import decode, read_orientation


def save(path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def labelled(
    path: Path,
    size: tuple[int, int] | None,
    *boxes: tuple[float, ...],
    ignored: tuple[float, ...] = (),
) -> LabelledImage:
    return LabelledImage(
        image_uri=str(path),
        annotation_uri=f"{path}.xml",
        gt_boxes=np.array(boxes, np.float32).reshape(-1, 4),
        gt_labels=np.ones(len(boxes), np.int64),
        difficult=np.zeros(len(boxes), np.bool_),
        crowd=np.zeros(len(boxes), np.bool_),
        ignored=np.array(ignored, np.float32).reshape(-1, 4),
        image_id=path.stem,
        size=size,
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned_boxes_lie_on_the_object_in_the_decoded_image(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    stored = np.zeros((48, 80, 3), np.uint8)
    stored[8:24, 32:72] = 255
    save(tmp_path / f"a.{suffix}", stored, orientation)
    data = (tmp_path / f"a.{suffix}").read_bytes()
    assert read_orientation(data) == orientation
    rows, columns = np.nonzero(decode(data).pixels[:, :, 0] > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    boxes = turned(np.array([[32, 8, 72, 24]], np.float32), orientation, (48, 80))
    assert boxes.tolist() == [seen]


def test_boxes_and_regions_of_a_lying_label_are_turned_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "photo.jpg"
    save(path, np.zeros((30, 40, 3), np.uint8), 6)
    image = labelled(path, (30, 40), (20, 2, 30, 8), ignored=(0, 0, 10, 5))
    other = labelled(tmp_path / "good.jpg", (20, 20), (1, 1, 5, 5))
    sizes = {str(path): (40, 30), str(tmp_path / "good.jpg"): (20, 20)}
    with caplog.at_level(logging.INFO):
        compared = compare_sizes([image, other], sizes, "refuse")
    upright = compared.images[str(path)]
    assert upright.gt_boxes.tolist() == [[22, 20, 28, 30]]
    assert upright.ignored.tolist() == [[25, 0, 30, 10]]
    assert upright.size == (40, 30)
    assert compared.images[other.image_uri] is other
    assert not compared.bad
    assert "1 of 2 images" in caplog.text


@pytest.mark.parametrize(
    ("orientation", "stated"), [(1, (30, 40)), (3, (30, 40)), (6, (60, 80)), (6, (30, 41))]
)
def test_any_other_size_is_a_bad_label_and_leaves_out_the_image(
    tmp_path: Path, orientation: int, stated: tuple[int, int]
) -> None:
    path = tmp_path / "photo.jpg"
    save(path, np.zeros((30, 40, 3), np.uint8), orientation)
    image = labelled(path, stated, (20, 2, 30, 8))
    compared = compare_sizes([image], {str(path): (40, 30)}, "skip")
    assert list(compared.left_out) == [str(path)]
    ((bad),) = compared.bad
    assert "photo.jpg" in bad.text
    assert f"states {stated[1]} x {stated[0]} pixels, but the image has 30 x 40" in bad.text


def test_without_a_stated_size_boxes_must_lie_inside_the_decoded_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    boxes = ((1, 1, 9, 9), (30, 1, 60, 9), (50, 1, 60, 9))
    image = labelled(path, None, *boxes)
    sizes = {str(path): (30, 40)}
    skipped = compare_sizes([image], sizes, "skip")
    assert skipped.images[str(path)].gt_boxes.tolist() == [[1, 1, 9, 9]]
    assert skipped.images[str(path)].ignored.tolist() == [[30, 1, 40, 9]]
    assert [one.done for one in skipped.bad] == ["now an ignored region", "left out"]
    clipped = compare_sizes([image], sizes, "clip")
    assert clipped.images[str(path)].gt_boxes.tolist() == [[1, 1, 9, 9], [30, 1, 40, 9]]
    assert len(clipped.images[str(path)].gt_labels) == 2


def test_a_run_from_before_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "photo.jpg"
    save(path, np.zeros((30, 40, 3), np.uint8), 6)
    image = labelled(path, (30, 40), (20, 2, 30, 8))
    compared = compare_sizes([image], {str(path): (40, 30)}, "refuse", only_warn=True)
    assert compared.images[str(path)] is image
    assert not compared.bad
    assert "1 of 1 images have another size than their labels state" in caplog.text
