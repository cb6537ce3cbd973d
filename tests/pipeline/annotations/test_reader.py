"""Reading the real data sets beside the checkout, and rules that hold for every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import storage
from pipeline.annotations import LabelledImages, read_labelled_images, splits
from pipeline.errors import UserError


def num_boxes(labelled: LabelledImages) -> int:
    return sum(len(image.gt_boxes) for image in labelled.images)


def boxes_by_class(labelled: LabelledImages) -> dict[str, int]:
    labels = np.concatenate([image.gt_labels for image in labelled.images])
    counts = np.bincount(labels, minlength=len(labelled.classes) + 1)
    assert counts[0] == 0, "0 is the background"
    return dict(zip(labelled.classes, counts[1:].tolist(), strict=True))


def same(one: LabelledImages, other: LabelledImages) -> bool:
    """Whether two splits are equal, apart from the places of their files."""
    return one.classes == other.classes and all(
        a.image_id == b.image_id
        and np.array_equal(a.gt_boxes, b.gt_boxes)
        and np.array_equal(a.gt_labels, b.gt_labels)
        for a, b in zip(one.images, other.images, strict=True)
    )


def test_every_box_of_the_blood_cells_is_read(shared_data: Path) -> None:
    uri = str(shared_data / "bccd")
    assert splits(uri) == ("test", "train", "trainval", "val")
    counts = {split: read_labelled_images(uri, split) for split in splits(uri)}
    assert {split: len(labelled.images) for split, labelled in counts.items()} == {
        "train": 205,
        "val": 87,
        "trainval": 292,
        "test": 72,
    }
    # 4,888 boxes in the files (2,805 + 1,138 + 945); one of train and one of val has no area.
    assert {split: num_boxes(labelled) for split, labelled in counts.items()} == {
        "train": 2804,
        "val": 1137,
        "trainval": 3941,
        "test": 945,
    }
    assert {labelled.layout for labelled in counts.values()} == {"voc"}
    assert boxes_by_class(counts["test"]) == {"Platelets": 69, "RBC": 805, "WBC": 71}
    assert counts["test"].problems == ()
    first, second = counts["trainval"].problems
    assert "BloodImage_00338.xml" in first
    assert "[504, 337, 504, 337]" in first
    assert "left out" in first
    assert "BloodImage_00343.xml" in second


def test_the_boxes_of_the_blood_cells_lie_in_their_images_and_have_areas(shared_data: Path) -> None:
    labelled = read_labelled_images(str(shared_data / "bccd"), "trainval")
    boxes = np.concatenate([image.gt_boxes for image in labelled.images])
    assert boxes.dtype == np.float32
    assert boxes.min() >= 0
    assert (boxes.max(axis=0) <= (640, 480, 640, 480)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert not any(image.difficult.any() or image.crowd.any() for image in labelled.images)


def test_playing_cards_are_read_with_suffixes_in_both_cases(shared_data: Path) -> None:
    uri = str(shared_data / "playing_cards")
    assert splits(uri) == ("test", "train")
    train, test = (read_labelled_images(uri, split) for split in ("train", "test"))
    assert (len(train.images), num_boxes(train)) == (296, 527)
    assert (len(test.images), num_boxes(test)) == (67, 143)
    assert train.layout == "labelimg"
    assert train.classes == test.classes == ("ace", "jack", "king", "nine", "queen", "ten")
    assert {Path(image.image_uri).suffix for image in train.images} == {".JPG", ".jpg"}
    assert train.problems == test.problems == ()


def test_fruit_is_read_though_its_sizes_are_zero(shared_data: Path) -> None:
    uri = str(shared_data / "fruit")
    train, test = (read_labelled_images(uri, split) for split in ("train", "test"))
    assert (len(train.images), num_boxes(train)) == (240, 465)
    assert (len(test.images), num_boxes(test)) == (60, 117)
    assert train.classes == ("apple", "banana", "orange")
    (apple,) = (image for image in train.images if image.image_id == "apple_1")
    # 8, 15, 331, 349 in the file, 1-based and inclusive
    assert apple.gt_boxes.tolist() == [[7, 14, 331, 349]]
    assert apple.gt_labels.tolist() == [1]


def test_a_bucket_gives_the_same_labels_as_the_folder(
    shared_data: Path, bucket: str, tmp_path: Path
) -> None:
    source = shared_data / "bccd"
    names = (source / "ImageSets/Main/test.txt").read_text().split()
    files = [f"Annotations/{name}.xml" for name in names] + [
        f"JPEGImages/{name}.jpg" for name in names
    ]
    for file in [*files, "ImageSets/Main/test.txt"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).symlink_to(source / file)
    storage.upload_folder(tmp_path, f"{bucket}/blood cells")
    remote = read_labelled_images(f"{bucket}/blood cells", "test")
    local = read_labelled_images(str(source), "test")
    assert same(remote, local)
    assert [image.image_uri for image in remote.images] == [
        image.image_uri.replace(str(source), f"{bucket}/blood cells") for image in local.images
    ]
    assert [i.annotation_uri for i in remote.images] == [
        f"{bucket}/blood cells/Annotations/{i.image_id}.xml" for i in remote.images
    ]


def test_images_are_sorted_by_uri_and_ids_unique(shared_data: Path) -> None:
    for name, split in (("bccd", "trainval"), ("playing_cards", "train"), ("fruit", "train")):
        images = read_labelled_images(str(shared_data / name), split).images
        uris = [image.image_uri for image in images]
        assert uris == sorted(uris)
        assert len({image.image_id for image in images}) == len(images)


def test_a_limit_keeps_the_first_images_and_all_classes(shared_data: Path) -> None:
    uri = str(shared_data / "bccd")
    whole = read_labelled_images(uri, "test")
    part = read_labelled_images(uri, "test", limit=5)
    assert part.classes == whole.classes
    assert [i.image_uri for i in part.images] == [i.image_uri for i in whole.images[:5]]
    given = read_labelled_images(uri, "test", classes=whole.classes, limit=5)
    assert same(given, part)


def test_the_classes_argument_sets_the_order_of_the_labels(shared_data: Path) -> None:
    labelled = read_labelled_images(
        str(shared_data / "bccd"), "test", classes=("WBC", "RBC", "Nothing", "Platelets")
    )
    assert boxes_by_class(labelled) == {"WBC": 71, "RBC": 805, "Nothing": 0, "Platelets": 69}
    (problem,) = labelled.problems
    assert "Nothing" in problem


def test_a_box_of_a_class_that_was_not_given_is_refused_and_named(shared_data: Path) -> None:
    with pytest.raises(
        UserError, match=r"'WBC' in .*BloodImage_\d+\.xml \(object \d+\).* RBC, Platelets"
    ):
        read_labelled_images(str(shared_data / "bccd"), "test", classes=("RBC", "Platelets"))


def test_a_class_given_twice_is_refused(shared_data: Path) -> None:
    with pytest.raises(UserError, match="RBC: is given twice"):
        read_labelled_images(str(shared_data / "bccd"), "test", classes=("RBC", "WBC", "RBC"))


def test_the_error_on_an_unknown_split_lists_the_splits(shared_data: Path) -> None:
    for name, wanted in (("bccd", "test, train, trainval, val"), ("fruit", "test, train")):
        with pytest.raises(UserError, match=f"'holdout'.* Its splits are: {wanted}"):
            read_labelled_images(str(shared_data / name), "holdout")


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="known layout"):
        read_labelled_images(str(tmp_path), "train")
    with pytest.raises(UserError, match="names no object"):
        splits(str(tmp_path / "none"))


def test_a_missing_bucket_is_refused(s3: str) -> None:
    with pytest.raises(UserError, match="no-such-bucket"):
        read_labelled_images("s3://no-such-bucket/data", "train")
