"""Advice from hand-made detectors: each has one limit, and only that one is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastrcnn.metrics import ImageDetections, ImageGroundTruth, match_boxes
from pipeline.training.advice import Facts, Finding, advise, page

CLASSES = ("ring", "cross")
SIDE = 40.0


def place(i: int, right: float = 0.0) -> tuple[float, float, float, float]:
    """The i-th of many boxes that lie apart, moved to the right."""
    return (100.0 * i + right, 0, 100 * i + right + SIDE, SIDE)


def facts(
    objects: list[int],
    boxes: list[tuple[tuple[float, ...], int, float]],
    **changes: Any,
) -> Facts:
    """One image: the i-th object has this class and lies at place(i); boxes are (box, label, score)."""
    truth = ImageGroundTruth(
        boxes=np.array([place(i) for i in range(len(objects))]).reshape(-1, 4),
        labels=np.array(objects, int),
    )
    detections = ImageDetections(
        boxes=np.array([box for box, _, _ in boxes]).reshape(-1, 4),
        labels=np.array([label for _, label, _ in boxes], int),
        scores=np.array([score for _, _, score in boxes], np.float64),
    )
    given = Facts(
        classes=CLASSES,
        images_per_class=(100, 100),
        matches=match_boxes([truth], [detections], 2),
        sides=np.full(len(objects), SIDE),
        scale=320,
        largest_scale=640,
        image_names=["a.jpg"],
        min_scores=np.array([0.5, 0.5]),
        ap=(0.9, 0.9),
        covered=1.0,
    )
    return replace(given, **changes)


RINGS = [1] * 40
FOUND = [(place(i), 1, 0.9) for i in range(40)]


def kinds(given: Facts) -> list[str]:
    return [finding.kind for finding in advise(given)]


def only(given: Facts) -> Finding:
    (finding,) = advise(given)
    return finding


def test_a_good_detector_gets_no_advice() -> None:
    given = facts(RINGS, FOUND)
    assert advise(given) == []
    text = page(given, [], "validation images")
    assert "40 boxes are right, 0 are wrong and 0 objects missed" in text
    assert "Nothing stands out" in text


def test_a_rare_class_with_a_low_ap_is_named() -> None:
    finding = only(facts(RINGS, FOUND, images_per_class=(100, 12), ap=(0.9, 0.41)))
    assert finding.kind == "few_images"
    assert "cross (12 images, AP 0.41)" in finding.what
    assert advise(facts(RINGS, FOUND, images_per_class=(100, 12), ap=(0.9, 0.8))) == []


def test_small_objects_that_are_missed_need_a_larger_scale() -> None:
    """Half of the objects have 8 px in the model and are missed: 1.5 * 12 px needs scale 320 * 18 / 8 = 720,
    and the images have 640."""
    sides = np.array([8.0] * 20 + [SIDE] * 20)
    finding = only(facts(RINGS, FOUND[20:], sides=sides))
    assert finding.kind == "small_objects"
    assert "20 of 40 objects" in finding.what
    assert "100% of them are missed (0% of the others)" in finding.what
    assert "such as 640 instead of 320" in finding.action
    larger = only(facts(RINGS, FOUND[20:], sides=sides, largest_scale=2000))
    assert "such as 736 instead of 320" in larger.action  # 720, rounded up to 32 px
    full = only(facts(RINGS, FOUND[20:], sides=sides, scale=640))
    assert "--scale" not in full.action


def test_small_objects_that_are_detected_need_nothing() -> None:
    assert advise(facts(RINGS, FOUND, sides=np.full(40, 8.0))) == []


def test_certain_boxes_on_nothing_may_lack_labels() -> None:
    boxes = [(place(i), 1, 0.95) for i in range(50, 56)]
    finding = only(facts(RINGS, FOUND + boxes))
    assert finding.kind == "unlabelled"
    assert finding.what.startswith("6 boxes")
    assert "a.jpg" in finding.what
    doubtful = [(box, label, 0.6) for box, label, _ in boxes]
    assert advise(facts(RINGS, FOUND + doubtful)) == []


def test_boxes_beside_their_objects_are_badly_placed() -> None:
    """Moved by 20 of 40 px: IoU 20 / 60 = .33."""
    beside = [(place(i, right=20), 1, 0.9) for i in range(10)]
    finding = only(facts(RINGS, FOUND[10:] + beside))
    assert finding.kind == "placement"
    assert finding.what.startswith("10 boxes")


def test_classes_that_are_mistaken_for_each_other_are_named() -> None:
    mistaken = [(place(i), 2, 0.9) for i in range(8)]
    finding = only(facts(RINGS, FOUND[8:] + mistaken))
    assert finding.kind == "confusion"
    assert finding.what == "8 boxes on ring say cross; there are 40 objects of ring."
    assert "--rename cross=ring" in finding.action


@pytest.mark.parametrize(
    ("values", "early"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), True),
        ((0.1, 0.5, 0.6, 0.6, 0.61, 0.61), False),
        ((0.1, 0.2, 0.3, 0.4, 0.6, 0.5), False),  # the best is not the last
        ((0.1, 0.9), False),
        ((), False),
    ],
)
def test_a_training_that_still_improves_was_stopped_early(
    values: tuple[float, ...], early: bool
) -> None:
    history = [(100 * (i + 1), value) for i, value in enumerate(values)]
    found = advise(facts(RINGS, FOUND, history=history))
    assert [finding.kind for finding in found] == (["stopped_early"] if early else [])
    if early:
        assert "--iterations 1200" in found[0].action


def test_proposals_that_cover_too_little_are_the_limit() -> None:
    finding = only(facts(RINGS, FOUND, covered=0.6, proposer="selective_search"))
    assert finding.kind == "proposals"
    assert "60%" in finding.what
    assert finding.action == "Train with --proposals rpn."
    assert "--scale" in only(facts(RINGS, FOUND, covered=0.6)).action


def test_a_tiny_set_gets_no_advice_from_two_boxes() -> None:
    """Three objects: one missed, one mistaken, one misplaced, a box on nothing; proposals cover two."""
    boxes = [(place(0), 2, 0.9), (place(1, right=20), 1, 0.9), (place(9), 1, 0.99)]
    given = facts([1, 1, 1], boxes, sides=np.full(3, 5.0), covered=2 / 3)
    assert kinds(given) == ["few_objects"]
    assert "3 objects" in only(given).what


def test_nothing_held_out_is_said() -> None:
    given = facts([], [], ap=(None, None), covered=None, images_per_class=(3, 100))
    assert kinds(given) == ["few_objects", "few_images"]
    assert "not measured" in advise(given)[0].what
    assert "ring (3 images, AP not measured)" in advise(given)[1].what
