"""Real data sets, written in other layouts and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.annotations import LabelledImages, read_labelled_images
from pipeline.errors import UserError
from pipeline.images import read_size
from pipeline.results.datasets import LAYOUTS, Picture


def pictures(labelled: LabelledImages, folder: Path) -> list[Picture]:
    found = []
    for image in labelled.images:
        height, width = read_size(Path(image.image_uri).read_bytes())
        names = [labelled.classes[label - 1] for label in image.gt_labels]
        boxes = [(n, *box) for n, box in zip(names, image.gt_boxes.tolist(), strict=True)]
        path = str(Path(image.image_uri).relative_to(folder))
        found.append(Picture(path=path, width=width, height=height, boxes=boxes))
    return found


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "split", "images"),
    [("bccd", "test", "JPEGImages"), ("fruit", "test", "test"), ("playing_cards", "test", "test")],
)
def test_a_data_set_in_another_layout_has_the_same_boxes(
    shared_data: Path, tmp_path: Path, name: str, split: str, images: str, layout: str, copied: bool
) -> None:
    folder = shared_data / name / images
    labelled = read_labelled_images(str(shared_data / name), split)
    LAYOUTS[layout].write(pictures(labelled, folder), labelled.classes, tmp_path)
    if copied:
        (tmp_path / LAYOUTS[layout].images).symlink_to(folder)
        again = read_labelled_images(str(tmp_path), "train")
    else:
        again = read_labelled_images(str(tmp_path), "train", images_at=str(folder))
    assert again.classes == labelled.classes
    ours = {Path(image.image_uri).name: image for image in again.images}
    assert len(labelled.images) <= len(ours)
    for image in labelled.images:
        found = ours[Path(image.image_uri).name]
        assert found.gt_labels.tolist() == image.gt_labels.tolist()
        assert np.abs(found.gt_boxes - image.gt_boxes).max(initial=0) < 0.01


def test_two_images_of_one_stem_need_a_layout_that_allows_them(tmp_path: Path) -> None:
    same = [Picture(path=f"x/a.{s}", width=4, height=3, boxes=()) for s in ("jpg", "png")]
    for layout in ("yolo", "voc"):
        with pytest.raises(UserError, match=r"x/a\.png: has the same stem as x/a\.jpg"):
            LAYOUTS[layout].write(same, ("dog",), tmp_path / layout)
    LAYOUTS["coco-dataset"].write(same, ("dog",), tmp_path)
    assert (tmp_path / "annotations/instances_train.json").exists()


@pytest.mark.parametrize("path", ["../../evil.jpg", "a/../../evil.jpg", "/tmp/evil.jpg", ".."])
@pytest.mark.parametrize("layout", ["yolo", "voc"])
def test_a_name_never_leads_out_of_the_data_set(tmp_path: Path, layout: str, path: str) -> None:
    """Keys of a bucket and names in archives may hold `..`."""
    hostile = [Picture(path=path, width=4, height=3, boxes=())]
    with pytest.raises(UserError, match="leads out of the folder of the data set"):
        LAYOUTS[layout].write(hostile, ("dog",), tmp_path / "x")
    assert not list(tmp_path.rglob("evil*"))
