"""What the names of splits and folders mean."""

from __future__ import annotations

import pytest

from pipeline.annotations.names import find_split, key_of, role, validation_split


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", "train"),
        ("train2017", "train"),
        ("custom_train", "train"),
        ("Training", "train"),
        ("val", "val"),
        ("valid", "val"),
        ("validation", "val"),
        ("val2017", "val"),
        ("test-dev", None),
        ("test", "test"),
        ("trainval", None),
        ("default", None),
        ("all", None),
        ("interval", None),
        ("contest", None),
    ],
)
def test_a_name_has_a_role_if_one_of_its_words_has(name: str, expected: str | None) -> None:
    assert role(name) == expected


@pytest.mark.parametrize(
    ("training", "splits", "expected"),
    [
        ("train", ("train", "val"), "val"),
        ("train", ("train", "val", "valid"), "val"),
        ("train", ("train", "valid"), "valid"),
        ("train", ("train", "validation", "test"), "validation"),
        ("train2017", ("train2017", "val2017"), "val2017"),
        ("train2017", ("train2017", "val2014", "val2017"), "val2017"),
        ("custom_train", ("custom_train", "custom_val", "other_val"), "custom_val"),
        ("train", ("train", "x_val", "y_val"), None),
        ("train", ("train", "test"), None),
        ("trainval", ("train", "trainval", "val"), None),
        ("default", ("default", "val"), None),
        ("all", ("all",), None),
    ],
)
def test_the_validation_split_is_the_one_that_belongs_to_the_training(
    training: str, splits: tuple[str, ...], expected: str | None
) -> None:
    assert validation_split(training, splits) == expected


@pytest.mark.parametrize(
    ("wanted", "splits", "expected"),
    [
        ("train", ("train", "train2017"), "train"),
        ("train", ("custom_train", "custom_val"), "custom_train"),
        ("train", ("default",), "default"),
        ("train", ("all",), "all"),
        ("train", ("test",), None),
        ("test", ("all",), None),
        ("train", ("a_train", "b_train"), None),
        ("train2014", ("train2017",), None),
        ("holdout2", ("test",), None),
    ],
)
def test_a_split_is_found_only_if_it_is_clear(
    wanted: str, splits: tuple[str, ...], expected: str | None
) -> None:
    assert find_split(wanted, splits) == expected


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.jpg", "annots/a.xml"),
        ("JPEGImages/x/a.jpg", "Annotations/x/a.xml"),
        ("train_images/a.jpg", "train_annotations/a.xml"),
        ("validation/images/a.jpg", "xmls/val/a.xml"),
        ("train_image_folder/a.jpg", "train_annot_folder/a.xml"),
    ],
)
def test_an_image_and_its_label_have_one_key(image: str, label: str) -> None:
    assert key_of(image) == key_of(label)
