"""Before anything is fitted or trained, a sample of images is compared with its labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.training.stated_sizes import (
    compare_in_dry_run,
    log_orientations,
    look_at,
    upright_images,
)
from pipeline.training.stored_run import StoredRun

NEW = StoredRun(None)


def image(
    folder: Path, name: str, orientation: int, size: tuple[int, int], stated: tuple[int, int]
) -> LabelledImage:
    """Save an image of this stored size (height, width), with a box of 20 x 10 (width x height)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size[::-1]).save(folder / f"{name}.jpg", exif=exif)
    return LabelledImage(
        image_uri=str(folder / f"{name}.jpg"),
        annotation_uri=f"{name}.xml",
        gt_boxes=np.array([[2, 3, 22, 13]], np.float32),
        gt_labels=np.array([1], np.int64),
        difficult=np.array([False]),
        crowd=np.array([False]),
        image_id=name,
        size=stated,
    )


def split(images: Sequence[LabelledImage]) -> LabelledImages:
    return LabelledImages(images=tuple(images), classes=("dog",), layout="voc", problems=())


def test_boxes_are_turned_before_anything_is_fitted_to_them(tmp_path: Path) -> None:
    lying = image(tmp_path, "a", 6, (30, 40), (30, 40))
    upright = image(tmp_path, "b", 6, (30, 40), (40, 30))
    other = image(tmp_path, "c", 1, (30, 40), (60, 80))
    images = [lying, upright, other]
    turned = upright_images(images, look_at(images), NEW)
    # 90 degrees to the right: x becomes 30 - y, and 20 x 10 becomes 10 x 20.
    assert [one.gt_boxes.tolist() for one in turned] == [[[17, 2, 27, 22]], [[2, 3, 22, 13]]]
    assert [one.size for one in turned] == [(40, 30), (40, 30)]
    assert upright_images([upright], look_at([upright]), NEW) == [upright]


def test_all_headers_are_read_only_if_the_sample_has_turned_boxes(tmp_path: Path) -> None:
    images = [image(tmp_path, str(n), 6, (30, 40), (30, 40)) for n in range(5)]
    looked = look_at(images, most=2)
    assert [one.image_id for one in looked.images] == ["0", "3"]
    turned = upright_images(images, looked, NEW)
    assert [one.size for one in turned] == [(40, 30)] * 5


def test_a_run_from_before_is_fitted_to_the_boxes_as_labelled(tmp_path: Path) -> None:
    images = [image(tmp_path, "a", 6, (30, 40), (30, 40))]
    assert upright_images(images, look_at(images), StoredRun({"labels": "checked"})) == images
    fitted = upright_images(images, look_at(images), StoredRun({"fit": "upright"}))
    assert fitted[0].size == (40, 30)


@pytest.mark.parametrize(
    ("orientation", "size", "counted"),
    [
        (1, (30, 40), 0),
        (2, (30, 40), 1),
        (3, (30, 40), 1),
        (4, (30, 40), 1),
        (6, (30, 40), 0),
        (6, (40, 40), 1),
    ],
)
def test_orientations_that_a_size_does_not_show_are_counted(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    orientation: int,
    size: tuple[int, int],
    counted: int,
) -> None:
    caplog.set_level(logging.INFO)
    images = [image(tmp_path, "a", orientation, size, size), image(tmp_path, "b", 1, size, size)]
    log_orientations(look_at(images), 2)
    assert ("1 of 2 images have an EXIF orientation" in caplog.text) == bool(counted)
    assert ("taken as upright: " in caplog.text) == bool(counted)


def test_a_dry_run_refuses_another_size_and_says_what_it_looked_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = TrainConfig(data="data", output=str(tmp_path / "out"), dry_run=True)
    good = [image(tmp_path, f"a{n}", 1, (30, 40), (30, 40)) for n in range(4)]
    compare_in_dry_run(config, [split(good)], [look_at(good, most=2)])
    assert "compared the labels of 2 images (a sample of 4) with their images" in caplog.text
    bad = [*good, image(tmp_path, "b", 1, (30, 40), (60, 80))]
    with pytest.raises(UserError, match=r"b\.jpg\): states 80 x 60 pixels, .* has 40 x 30"):
        compare_in_dry_run(config, [split(bad)], [look_at(bad)])


def test_a_dry_run_reports_images_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainConfig(data="data", output=str(tmp_path / "out"), dry_run=True)
    images = [image(tmp_path, name, 1, (30, 40), (30, 40)) for name in "ab"]
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.jpg").write_bytes(b"no image")
    compare_in_dry_run(config, [split(images)], [look_at(images)])
    assert "2 of 2 images cannot be read: " in caplog.text
