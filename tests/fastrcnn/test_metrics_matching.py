"""Matching of detections to objects, on boxes of 10 x 10 pixels whose IoU is known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastrcnn.metrics import ImageDetections, ImageGroundTruth, Matches, match_boxes

BOX = (0.0, 0.0, 10.0, 10.0)
FAR = (100.0, 100.0, 110.0, 110.0)


def shifted(by: float) -> tuple[float, float, float, float]:
    """A box with IoU (10 - by) / (10 + by) with `BOX`."""
    return (by, 0.0, by + 10.0, 10.0)


def truth(*objects: tuple[tuple[float, ...], int], **more: Any) -> ImageGroundTruth:
    boxes = np.array([box for box, _ in objects], np.float32).reshape(-1, 4)
    return ImageGroundTruth(boxes=boxes, labels=np.array([k for _, k in objects], int), **more)


def detected(*rows: tuple[tuple[float, ...], int, float]) -> ImageDetections:
    return ImageDetections(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], int),
        scores=np.array([row[2] for row in rows], np.float32),
    )


def match(image: ImageGroundTruth, detections: ImageDetections) -> Matches:
    return match_boxes([image], [detections], 2)


def test_an_object_belongs_to_the_best_score_only() -> None:
    matches = match(truth((BOX, 1)), detected((BOX, 1, 0.6), (shifted(1), 1, 0.9)))
    assert matches.correct.tolist() == [False, True]
    assert matches.objects.tolist() == [-1, 0]


def test_a_second_detection_takes_the_next_free_object() -> None:
    """Both detections fit the first object best; the second one also fits the other, with IoU 8 / 12."""
    image = truth((BOX, 1), (shifted(3), 1))
    matches = match(image, detected((BOX, 1, 0.9), (shifted(1), 1, 0.8)))
    assert matches.correct.tolist() == [True, True]
    assert matches.objects.tolist() == [0, 1]


def test_half_an_overlap_is_enough_and_less_is_not() -> None:
    third = 10 / 3  # IoU (10 - 10 / 3) / (10 + 10 / 3) = .5
    for by, correct in ((third - 0.01, True), (third + 0.01, False)):
        matches = match(truth((BOX, 1)), detected((shifted(by), 1, 0.9)))
        assert matches.correct.tolist() == [correct]
        assert matches.class_iou == pytest.approx([0.5], abs=0.002)


def test_another_class_is_wrong_and_named() -> None:
    matches = match(truth((BOX, 2)), detected((shifted(1), 1, 0.9), (FAR, 1, 0.8)))
    assert matches.correct.tolist() == [False, False]
    assert matches.other_labels.tolist() == [2, 0]
    assert matches.other_iou == pytest.approx([9 / 11, 0])
    assert matches.class_iou.tolist() == [0, 0]


def test_detections_of_difficult_objects_count_nowhere() -> None:
    image = truth((BOX, 1), (FAR, 1), difficult=np.array([True, False]))
    matches = match(image, detected((BOX, 1, 0.9), (BOX, 2, 0.8), (FAR, 1, 0.7)))
    assert matches.scores == pytest.approx([0.8, 0.7])
    assert matches.correct.tolist() == [False, True]
    assert matches.object_boxes.tolist() == [list(FAR)]


def test_boxes_inside_a_crowd_or_an_ignored_region_count_nowhere() -> None:
    small = (0.0, 0.0, 2.0, 2.0)  # IoU .04 with the region, but all of it lies inside
    crowd = truth((BOX, 1), crowd=np.array([True]))
    assert match(crowd, detected((small, 1, 0.9))).scores.tolist() == []
    assert match(crowd, detected((small, 2, 0.9))).correct.tolist() == [False]
    region = truth((FAR, 1), ignored_regions=np.array([BOX], np.float32))
    for label in (1, 2):
        assert match(region, detected((small, label, 0.9))).scores.tolist() == []


def test_an_object_in_an_ignored_region_can_be_found() -> None:
    region = truth((BOX, 1), ignored_regions=np.array([(0, 0, 50, 50)], np.float32))
    assert match(region, detected((BOX, 1, 0.9))).correct.tolist() == [True]


def test_objects_are_numbered_over_all_images() -> None:
    images = [truth((BOX, 1), (FAR, 2)), truth(), truth((BOX, 2))]
    boxes = [detected(), detected((BOX, 1, 0.5)), detected((BOX, 2, 0.9))]
    matches = match_boxes(images, boxes, 2)
    assert matches.images.tolist() == [1, 2]
    assert matches.objects.tolist() == [-1, 2]
    assert matches.object_images.tolist() == [0, 0, 2]
    assert matches.object_labels.tolist() == [1, 2, 2]


def test_no_images_give_empty_arrays() -> None:
    matches = match_boxes([], [], 2)
    assert (matches.boxes.shape, matches.object_boxes.shape) == ((0, 4), (0, 4))
    assert matches.correct.dtype == bool
