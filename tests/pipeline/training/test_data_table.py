"""Tests of the data description: counts worked out by hand, and warnings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.annotations.labelled import SetName
from pipeline.training.data_table import describe_data


def image(name: str, boxes: list[list[float]], labels: list[int]) -> LabelledImage:
    return LabelledImage(
        image_uri=name,
        annotation_uri=name,
        gt_boxes=np.array(boxes, np.float32).reshape(-1, 4),
        gt_labels=np.array(labels, np.int64),
        difficult=np.array([False] * len(boxes), np.bool_),
        crowd=np.array([False] * len(boxes), np.bool_),
        image_id=name,
    )


def labelled(*images: LabelledImage, problems: tuple[str, ...] = ()) -> LabelledImages:
    return LabelledImages(
        images=images, classes=("cat", "dog", "emu"), layout="voc", problems=problems
    )


def test_boxes_images_and_sides_are_counted_and_warnings_given() -> None:
    training = labelled(
        image("a", [[0, 0, 10, 10], [0, 0, 20, 20], [0, 0, 9, 16]], [1, 1, 2]),
        image("b", [[0, 0, 30, 30]], [1]),
        image("c", [], []),
        problems=("x.xml: no area; left out",),
    )
    lines = describe_data(training, labelled(image("d", [[0, 0, 5, 5]], [2])))
    assert lines[0] == "3 training images (voc), 1 without objects, 1 problem, listed above"
    assert lines[1] == "1 validation image (voc)"
    table = {line.split()[0]: line.split() for line in lines[2:]}
    assert table["class"] == ["class", "boxes", "images", "side,", "px"]
    assert table["cat"][:4] == ["cat", "3", "2", "20"]
    assert table["cat"][4] == "#" * 20
    assert " ".join(table["cat"][5:]) == "no validation example"
    assert table["dog"][:5] == ["dog", "1", "1", "12", "#" * 7]
    assert " ".join(table["dog"][5:]) == "only one training example"
    assert " ".join(table["emu"][4:]) == "no training example: cannot be learned"


def test_one_is_singular_and_more_are_plural() -> None:
    plain = image("a", [[0, 0, 4, 4]] * 2, [1, 1])
    odd = replace(plain, difficult=np.array([True, True]), crowd=np.array([True, False]))
    line, *_ = describe_data(labelled(odd, problems=("x", "y")), None)
    assert line == (
        "1 training image (voc), 2 difficult objects, 1 crowd, not trained on, 2 problems, listed above"
    )


def test_without_validation_images_no_line_mentions_validation() -> None:
    lines = describe_data(labelled(image("a", [[0, 0, 4, 4]] * 2, [1, 1])), None)
    assert not any("validat" in line for line in lines)


def test_the_images_of_each_data_set_are_counted() -> None:
    images = [
        image("s3://b/images/a", [[0, 0, 4, 4]], [1]),
        image("s3://b/c", [[0, 0, 4, 4]] * 2, [1, 2]),
        image("s3://b/d", [], []),
    ]
    sets = (SetName("s3://b", "voc"), SetName("s3://b/images", "coco"))
    lines = describe_data(replace(labelled(*images), sets=sets), None)
    assert lines[1:3] == [
        "  2 images, 2 boxes: s3://b (voc)",
        "  1 image, 1 box: s3://b/images (coco)",
    ]
    assert len(describe_data(replace(labelled(*images), sets=sets[:1]), None)) == len(lines) - 2
