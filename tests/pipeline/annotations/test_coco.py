"""Reading COCO's JSON from small hand-written data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.annotations import read_labelled_images, splits
from pipeline.errors import UserError


def document() -> dict[str, Any]:
    """Two images; category ids with a gap and out of order."""
    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": 40, "height": 30},
            {"id": 3, "file_name": "a.jpg", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3.5, 4], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 2, "name": "toothbrush"}],
    }


def write(root: Path, json_path: str, images: str, content: Any) -> str:
    (root / json_path).parent.mkdir(parents=True, exist_ok=True)
    (root / json_path).write_text(content if isinstance(content, str) else json.dumps(content))
    for name in ("a.jpg", "b.jpg"):
        (root / images / name).parent.mkdir(parents=True, exist_ok=True)
        (root / images / name).write_bytes(b"never opened")
    return str(root)


@pytest.mark.parametrize(
    ("json_path", "images"),
    [
        ("annotations/instances_train.json", "train"),
        ("annotations/instances_train.json", "images/train"),
        ("annotations/instances_train.json", "images"),
        ("annotations/train.json", "train"),
        ("train/_annotations.coco.json", "train"),
        ("train/annotations.json", "train/images"),
        ("instances_train.json", "train"),
        ("train.json", "train"),
    ],
)
def test_usual_layouts_are_recognised(tmp_path: Path, json_path: str, images: str) -> None:
    content = document()
    if images == "train/images":
        for image in content["images"]:
            image["file_name"] = "images/" + image["file_name"]
    uri = write(tmp_path, json_path, images, content)
    assert splits(uri) == ("train",)
    labelled = read_labelled_images(uri, "train")
    assert labelled.layout == "coco"
    assert [i.image_uri for i in labelled.images] == [f"{uri}/{images}/{n}.jpg" for n in "ab"]
    assert {i.annotation_uri for i in labelled.images} == {f"{uri}/{json_path}"}


def test_xywh_becomes_xyxy_and_ids_become_labels(tmp_path: Path) -> None:
    uri = write(tmp_path, "annotations/instances_train.json", "train", document())
    labelled = read_labelled_images(uri, "train")
    assert labelled.classes == ("toothbrush", "zebra"), "by rising id: 2, 90"
    a, b = labelled.images
    assert (a.image_id, b.image_id) == ("3", "7")
    assert a.gt_boxes.shape == (0, 4)
    assert b.gt_boxes.tolist() == [[1, 2, 4.5, 6], [0, 0, 40, 30]]
    assert b.gt_labels.tolist() == [2, 1]
    assert b.crowd.tolist() == [False, True]
    assert labelled.problems == ()


def test_the_classes_argument_sets_the_order_of_labels(tmp_path: Path) -> None:
    uri = write(tmp_path, "annotations/instances_train.json", "train", document())
    labelled = read_labelled_images(uri, "train", classes=("zebra", "toothbrush"))
    assert labelled.images[1].gt_labels.tolist() == [1, 2]
    with pytest.raises(UserError, match=r"'toothbrush' in .*annotation 2"):
        read_labelled_images(uri, "train", classes=("zebra",))


def test_a_limit_keeps_the_first_images_by_uri(tmp_path: Path) -> None:
    uri = write(tmp_path, "annotations/instances_train.json", "train", document())
    labelled = read_labelled_images(uri, "train", limit=1)
    assert [image.image_id for image in labelled.images] == ["3"]
    assert labelled.classes == ("toothbrush", "zebra")


def test_other_files_of_coco_are_not_splits(tmp_path: Path) -> None:
    for name in (
        "captions_val",
        "person_keypoints_val",
        "panoptic_val",
        "instances_val",
        "instances_train",
    ):
        uri = write(tmp_path, f"annotations/{name}.json", "val", document())
    (tmp_path / "results.json").write_text("[]")
    assert splits(uri) == ("train", "val")


@pytest.mark.parametrize("box", [[5, 5, 0, 3], [5, 5, 3, 0]])
def test_a_box_without_area_is_left_out_and_reported(tmp_path: Path, box: list[float]) -> None:
    content = document()
    content["annotations"][0]["bbox"] = box
    uri = write(tmp_path, "annotations/instances_train.json", "train", content)
    labelled = read_labelled_images(uri, "train")
    assert labelled.images[1].gt_boxes.tolist() == [[0, 0, 40, 30]]
    assert "instances_train.json (annotation 1): zebra" in labelled.problems[0]
    assert str(box) in labelled.problems[0]


@pytest.mark.parametrize(
    ("section", "index", "change", "why"),
    [
        ("annotations", 0, {"bbox": [1, 2, 3]}, "annotation 1 .*not .x, y, w, h."),
        ("annotations", 0, {"bbox": [1, 2, 3, float("nan")]}, "annotation 1 .*finite"),
        ("annotations", 0, {"bbox": None}, "annotation 1"),
        ("annotations", 0, {"category_id": 5}, "category_id 5"),
        ("annotations", 0, {"image_id": 99}, "images that it does not list: annotation 1"),
        ("annotations", 0, {"image_id": 7.0}, "image id 7.0 is neither an integer"),
        ("annotations", 1, {"id": 1}, "annotation id 1.*twice"),
        ("images", 1, {"id": 7}, "image id 7.*twice"),
        ("images", 1, {"id": None}, "image id None"),
        ("images", 1, {"file_name": "gone.jpg"}, "do not exist: gone.jpg"),
        ("images", 1, {"file_name": "../../etc/passwd"}, "do not exist"),
        ("categories", 1, {"id": 90}, "category id 90.*twice"),
        ("categories", 1, {"id": "2"}, "integer id"),
        ("categories", 1, {"name": "zebra"}, "category name zebra.*twice"),
    ],
)
def test_an_inconsistent_entry_is_refused_and_named(
    tmp_path: Path, section: str, index: int, change: dict[str, Any], why: str
) -> None:
    content = document()
    content[section][index] |= change
    uri = write(tmp_path, "annotations/instances_train.json", "train", content)
    with pytest.raises(UserError, match=why):
        read_labelled_images(uri, "train")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": []}', '{"images": 3}', '"text"'])
def test_a_file_that_is_not_coco_is_refused(tmp_path: Path, content: str) -> None:
    uri = write(tmp_path, "annotations/instances_train.json", "train", content)
    with pytest.raises(UserError, match=r"instances_train\.json"):
        read_labelled_images(uri, "train")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    content = document() | {"images": [], "annotations": []}
    uri = write(tmp_path, "annotations/instances_train.json", "train", content)
    with pytest.raises(UserError, match="no labelled image"):
        read_labelled_images(uri, "train")
