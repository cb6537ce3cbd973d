"""Tests of the numbers that a recipe needs to know about the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.training.label_statistics import evenly, label_statistics

Box = tuple[float, float, float, float]


def image(
    name: str,
    boxes: Sequence[Box],
    size: tuple[int, int] | None = (100, 200),
    labels: Sequence[int] | None = None,
    crowd: bool = False,
) -> LabelledImage:
    count = len(boxes)
    return LabelledImage(
        image_uri=name,
        annotation_uri=f"{name}.xml",
        gt_boxes=np.array(boxes, np.float32).reshape(-1, 4),
        gt_labels=np.array(labels or [1] * count, np.int64),
        difficult=np.zeros(count, np.bool_),
        crowd=np.full(count, crowd),
        image_id=name,
        size=size,
    )


def split(*images: LabelledImage, classes: tuple[str, ...] = ("a", "b")) -> LabelledImages:
    return LabelledImages(images=images, classes=classes, layout="test", problems=())


def test_sides_are_shares_of_the_shorter_image_side() -> None:
    small, large = (0, 0, 10, 10), (0, 0, 80, 20)  # sides 10 and 40
    found = label_statistics(split(image("1", [small]), image("2", [large], (400, 200))))
    assert (found.num_images, found.num_objects, found.num_classes) == (2, 2, 1)
    assert found.side_p50 == pytest.approx((0.1 + 0.2) / 2)
    assert found.side_p10 == pytest.approx(0.1 + 0.1 * 0.1)
    assert (found.short_side, found.long_side) == (150, 300)


def test_crowds_count_for_nothing() -> None:
    found = label_statistics(split(image("1", [(0, 0, 9, 9)] * 3, crowd=True)))
    assert (found.num_objects, found.num_classes, found.most_objects) == (0, 0, 0)
    assert (found.side_p10, found.neighbours) == (None, 0)


def test_neighbours_have_the_same_class_and_a_large_iou() -> None:
    near: list[Box] = [(0, 0, 10, 10), (0, 2, 10, 12)]  # IoU 8 / 12
    apart: list[Box] = [(0, 0, 10, 10), (0, 5, 10, 15)]  # IoU 1 / 3
    of_two_classes = image("2", near, labels=[1, 2])
    found = label_statistics(split(image("1", near), of_two_classes, image("3", apart)))
    assert found.neighbours == pytest.approx(2 / 6)
    assert found.num_classes == 2


def test_objects_of_two_classes_share_a_box_above_an_iou() -> None:
    same: list[Box] = [(0, 0, 10, 10), (0, 2, 10, 12)]  # IoU 8 / 12
    less: list[Box] = [(0, 0, 10, 10), (0, 3, 10, 13)]  # IoU 7 / 13
    pairs = image("1", same, labels=[1, 2]), image("2", less, labels=[1, 2]), image("3", same)
    assert label_statistics(split(*pairs)).shared_boxes == pytest.approx(2 / 6)


def test_sizes_that_labels_do_not_state_may_be_given() -> None:
    unsized = split(image("1", [(0, 0, 10, 10)], None))
    assert label_statistics(unsized).side_p50 is None
    assert label_statistics(unsized).short_side is None
    found = label_statistics(unsized, {"1": (50, 40)})
    assert (found.side_p50, found.short_side) == (0.25, 40)


def test_the_number_of_objects_of_full_images() -> None:
    box = (0, 0, 10, 10)
    found = label_statistics(split(*(image(str(k), [box] * k) for k in (0, 1, 2, 3, 40))))
    assert (found.objects_p75, found.most_objects) == (3, 40)


def test_images_are_chosen_evenly() -> None:
    images = [image(str(k), []) for k in range(10)]
    assert [i.image_id for i in evenly(images, 4)] == ["0", "3", "6", "9"]
    assert evenly(images, 10) == images
    assert evenly([], 4) == []
