"""Dividing the images of a split into training, validation and test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.training.held_out import PARTS, Parts, divide, write_parts


def labelled(root: Path, names: list[str], rare: set[str] = frozenset()) -> LabelledImages:  # type: ignore[assignment]
    """Images with a dog each; those of `rare` have a cat too."""
    images = []
    for name in names:
        labels = [1, 2] if name in rare else [1]
        none = np.zeros(len(labels), np.bool_)
        images.append(
            LabelledImage(
                image_uri=f"{root}/data/{name}",
                annotation_uri="x",
                gt_boxes=np.tile(np.array([[0, 0, 9, 9]], np.float32), (len(labels), 1)),
                gt_labels=np.array(labels),
                difficult=none,
                crowd=none,
                image_id=name,
            )
        )
    return LabelledImages(images=tuple(images), classes=("dog", "cat"), layout="voc", problems=())


def config(root: Path, **flags: object) -> TrainConfig:
    return TrainConfig(data=f"{root}/data", output=f"{root}/out", **flags)  # type: ignore[arg-type]


def names(parts: Parts) -> dict[str, set[str]]:
    found = {}
    for part in PARTS:
        images = getattr(parts, part)
        found[part] = {image.image_id for image in images.images} if images else set()
    return found


NUMBERED = [f"images/{k:03d}.jpg" for k in range(100)]
NAMED = [f"{k * 7919 % 10007:x}-photo.jpg" for k in range(300)]


@pytest.mark.parametrize("seed", range(5))
def test_each_image_is_in_one_part_and_the_shares_are_close(tmp_path: Path, seed: int) -> None:
    flags = config(tmp_path, val_fraction=0.2, test_fraction=0.1, seed=seed)
    parts = names(divide(flags, labelled(tmp_path, NUMBERED)))
    assert sorted(name for part in parts.values() for name in part) == NUMBERED
    assert abs(len(parts["val"]) - 20) <= 2
    assert abs(len(parts["test"]) - 10) <= 2
    assert names(divide(flags, labelled(tmp_path, NUMBERED))) == parts


@pytest.mark.parametrize("all_names", [NUMBERED, NAMED])
def test_images_that_are_added_later_move_no_other_image(
    tmp_path: Path, all_names: list[str]
) -> None:
    flags = config(tmp_path, val_fraction=0.2, test_fraction=0.1)
    few = names(divide(flags, labelled(tmp_path, all_names[::2])))
    many = names(divide(flags, labelled(tmp_path, all_names)))
    for part in PARTS:
        assert few[part] <= many[part]


def test_the_place_of_the_data_set_does_not_matter_but_the_seed_does(tmp_path: Path) -> None:
    here = names(divide(config(tmp_path, val_fraction=0.3), labelled(tmp_path, NAMED)))
    other = tmp_path / "moved"
    assert names(divide(config(other, val_fraction=0.3), labelled(other, NAMED))) == here
    assert (
        names(divide(config(tmp_path, val_fraction=0.3, seed=4), labelled(tmp_path, NAMED))) != here
    )


@pytest.mark.parametrize("seed", range(10))
def test_a_class_has_an_image_in_each_part_if_it_has_enough(tmp_path: Path, seed: int) -> None:
    rare = set(NAMED[:3])
    flags = config(tmp_path, val_fraction=0.1, test_fraction=0.1, seed=seed)
    parts = names(divide(flags, labelled(tmp_path, NAMED, rare)))
    assert [len(parts[part] & rare) for part in PARTS] == [1, 1, 1, 0, 0]
    only = set(NAMED[:1])
    assert NAMED[0] in names(divide(flags, labelled(tmp_path, NAMED, only)))["train"]


def test_written_parts_are_kept(tmp_path: Path) -> None:
    flags = config(tmp_path, val_fraction=0.2)
    images = labelled(tmp_path, NUMBERED)
    parts = divide(flags, images)
    write_parts(flags, parts)
    text = (tmp_path / "out/splits/val.txt").read_text().splitlines()
    assert text[0] == "# images of the split train"
    assert set(text[1:]) == names(parts)["val"]
    moved = (tmp_path / "out/splits/train.txt").read_text().splitlines()[1]
    (tmp_path / "out/splits/val.txt").write_text(f"{moved}\n")
    assert moved in names(divide(flags, images))["val"] | names(divide(flags, images))["train"]
    (tmp_path / "out/splits/train.txt").unlink()
    assert moved in names(divide(flags, images))["val"]


def test_something_must_be_left_to_train_on(tmp_path: Path) -> None:
    empty = labelled(tmp_path, [])
    with pytest.raises(UserError, match="the split has 0 images"):
        divide(config(tmp_path, val_fraction=0.5), empty)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"val_fraction": 1.5}, "--val-fraction 1.5: expected a share"),
        ({"test_fraction": -0.1}, "--test-fraction -0.1: expected a share"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "leave no image to train on"),
        ({"val_fraction": 0.2, "val_split": "val"}, "both say what to validate on"),
        ({"annotations": "x.json", "data": ""}, "Add --images-at"),
        ({"data": ""}, "--data: is required and missing"),
        ({"annotations": "x.json", "images_at": "y"}, "name the images twice"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags: dict[str, object], why: str) -> None:
    with pytest.raises(UserError, match=why):
        TrainConfig(**({"data": "d", "output": "o"} | flags))  # type: ignore[arg-type]


def test_a_tenth_is_held_out_for_calibration_and_later_images_move_nobody(tmp_path: Path) -> None:
    flags = config(tmp_path)
    parts = names(divide(flags, labelled(tmp_path, NUMBERED), 0.1))
    assert abs(len(parts["calibration"]) - 10) <= 1
    assert parts["train"] | parts["calibration"] == set(NUMBERED)
    assert parts["val"] | parts["test"] == set()
    fewer = names(divide(flags, labelled(tmp_path, NUMBERED[:60]), 0.1))
    assert fewer["calibration"] == parts["calibration"] & set(NUMBERED[:60])


def test_a_tenth_of_what_the_test_leaves_is_held_out(tmp_path: Path) -> None:
    flags = config(tmp_path, test_fraction=0.5)
    parts = names(divide(flags, labelled(tmp_path, NAMED), 0.1))
    assert 5 <= len(parts["calibration"]) <= 25
    assert parts["test"] == names(divide(flags, labelled(tmp_path, NAMED)))["test"]


def test_the_training_keeps_the_only_image_of_a_class(tmp_path: Path) -> None:
    held_out = sorted(
        names(divide(config(tmp_path), labelled(tmp_path, NUMBERED), 0.1))["calibration"]
    )
    rare = {held_out[0]}
    parts = names(divide(config(tmp_path), labelled(tmp_path, NUMBERED, rare), 0.1))
    assert rare <= parts["train"]


def folds_of(root: Path, all_names: list[str], **flags: object) -> list[dict[str, set[str]]]:
    images = labelled(root, all_names)
    return [
        names(divide(config(root, folds=3, fold=fold, **flags), images, calibration=0.1))
        for fold in (1, 2, 3)
    ]


@pytest.mark.parametrize("all_names", [NUMBERED, NAMED])
def test_each_image_is_left_out_of_one_training_of_the_folds(
    tmp_path: Path, all_names: list[str]
) -> None:
    divided = folds_of(tmp_path, all_names, val_fraction=0.2)
    left_out = [name for parts in divided for name in parts["fold"]]
    assert sorted(left_out) == sorted(all_names)
    for parts in divided:
        assert sorted(name for part in parts.values() for name in part) == sorted(all_names)
        rest = len(all_names) - len(parts["fold"])
        assert len(parts["val"]) == pytest.approx(0.2 * rest, rel=0.4)
        assert parts["calibration"]


def test_images_that_are_added_later_stay_out_of_the_other_folds(tmp_path: Path) -> None:
    few, many = (folds_of(tmp_path, part) for part in (NAMED[::2], NAMED))
    for before, after in zip(few, many, strict=True):
        assert before["fold"] == after["fold"] & set(NAMED[::2])


def test_a_fold_is_written_as_a_list_that_can_be_scored(tmp_path: Path) -> None:
    flags = config(tmp_path, folds=2, fold=1)
    parts = divide(flags, labelled(tmp_path, NUMBERED))
    assert parts.fold is not None
    write_parts(flags, parts)
    lines = (tmp_path / "out/splits/fold.txt").read_text().splitlines()
    assert lines[0].startswith("#")
    assert lines[1:] == sorted(image.image_uri for image in parts.fold.images)
    again = divide(flags, labelled(tmp_path, NUMBERED))
    assert names(again)["fold"] == names(parts)["fold"]


def test_a_class_that_only_the_left_out_fold_has_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = config(tmp_path, folds=2, fold=1)
    inside = sorted(names(divide(flags, labelled(tmp_path, NAMED)))["fold"])
    divide(flags, labelled(tmp_path, NAMED, set(inside[:1])))
    assert "only fold 1 has images of cat" in caplog.text


def test_an_empty_fold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hold 0 of 1 images|hold 1 of 1 images"):
        divide(config(tmp_path, folds=2, fold=1), labelled(tmp_path, NAMED[:1]))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"folds": 2}, "without --fold"),
        ({"fold": 2}, "without --folds"),
        ({"folds": 2, "fold": 3}, "from 1 to 2"),
        ({"folds": 2, "fold": 0}, "from 1 to 2"),
        ({"folds": 1, "fold": 1}, "expected 2 to"),
    ],
)
def test_folds_that_cannot_be_are_refused(
    tmp_path: Path, flags: dict[str, int], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        config(tmp_path, **flags)
