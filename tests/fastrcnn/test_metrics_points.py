"""Operating points, outcomes and confusion, on boxes of 10 x 10 pixels and counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastrcnn.metrics import (
    KINDS,
    ImageDetections,
    ImageGroundTruth,
    Matches,
    OperatingPoint,
    best_thresholds,
    confusion,
    match_boxes,
    operating_points,
    outcomes,
)

CAT, DOG, OWL = 1, 2, 3
A, B, C, FAR = (
    (0.0, 0.0, 10.0, 10.0),
    (100.0, 0.0, 110.0, 10.0),
    (200.0, 0.0, 210.0, 10.0),
    (300.0, 0.0, 310.0, 10.0),
)
ALMOST_A = (1.0, 0.0, 11.0, 10.0)  # IoU 9 / 11 with A

Object = tuple[tuple[float, ...], int]
Found = tuple[tuple[float, ...], int, float]


def match(*images: tuple[list[Object], list[Found]]) -> Matches:
    truth = [
        ImageGroundTruth(
            boxes=np.array([box for box, _ in objects], np.float32).reshape(-1, 4),
            labels=np.array([label for _, label in objects], int),
        )
        for objects, _ in images
    ]
    detected = [
        ImageDetections(
            boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
            labels=np.array([row[1] for row in rows], int),
            scores=np.array([row[2] for row in rows], np.float64),
        )
        for _, rows in images
    ]
    return match_boxes(truth, detected, 3)


# Two cats: one with .9, a false box with .8, the other cat with .7.
CATS = match(([(A, CAT), (B, CAT)], [(A, CAT, 0.9), (FAR, CAT, 0.8), (B, CAT, 0.7)]))


def point_of(matches: Matches, kind: str, **asked: float) -> OperatingPoint:
    (point,) = [
        p for p in operating_points(matches, 3, **asked) if (p.label, p.kind) == (CAT, kind)
    ]
    return point


def test_the_best_f1_of_a_class_is_measured_at_its_threshold() -> None:
    point = point_of(CATS, "best_f1")
    assert (point.threshold, point.precision, point.recall) == (0.7, 2 / 3, 1)
    assert point.f1 == pytest.approx(0.8)  # 2 * 2 / (3 boxes + 2 objects)


def test_the_point_of_a_precision_has_the_highest_recall() -> None:
    point = point_of(CATS, "precision", at_precision=0.75)
    assert (point.threshold, point.precision, point.recall) == (pytest.approx(0.85), 1, 0.5)
    point = point_of(CATS, "precision", at_precision=0.6)  # 2 / 3 with both cats
    assert (point.threshold, point.recall) == (0.7, 1)


def test_the_point_of_a_recall_has_the_highest_precision() -> None:
    point = point_of(CATS, "recall", at_recall=0.5)
    assert (point.threshold, point.precision) == (pytest.approx(0.85), 1)
    point = point_of(CATS, "recall", at_recall=0.6)
    assert (point.threshold, point.precision, point.recall) == (0.7, 2 / 3, 1)


def test_a_point_that_nothing_reaches_has_no_numbers() -> None:
    half_seen = match(([(A, CAT), (B, CAT)], [(A, CAT, 0.9)]))
    wrong = match(([(A, CAT)], [(FAR, CAT, 0.9)]))
    for point in (
        point_of(half_seen, "recall", at_recall=0.6),
        point_of(wrong, "precision", at_precision=0.1),
        point_of(wrong, "best_f1"),
        point_of(match(([], [(A, CAT, 0.9)])), "recall", at_recall=0.1),  # no cat is there
        point_of(match(([(A, CAT)], [])), "best_f1"),
    ):
        numbers = (point.threshold, point.precision, point.recall, point.f1)
        assert all(math.isnan(number) for number in numbers)


def test_equal_scores_are_one_point() -> None:
    equal = match(([(A, CAT)], [(A, CAT, 0.5), (FAR, CAT, 0.5), (B, CAT, 0.25)]))
    point = point_of(equal, "best_f1")
    assert (point.threshold, point.precision, point.recall) == (0.375, 0.5, 1)


def test_points_come_by_class_and_a_class_without_one_starts_at_a_half() -> None:
    points = operating_points(CATS, 3, at_precision=0.9, at_recall=0.9)
    assert [(p.label, p.kind) for p in points] == [
        (label, kind) for label in (1, 2, 3) for kind in ("best_f1", "precision", "recall")
    ]
    assert best_thresholds(points).tolist() == [0.7, 0.5, 0.5]


# Image 0: a cat found twice, a dog taken for a cat, an owl only below the threshold, a box on nothing.
# Image 1: a dog that nothing finds. Image 2: no object and no box.
# Image 3: a dog found, and taken for an owl too.
WORLD = match(
    (
        [(A, CAT), (B, DOG), (C, OWL)],
        [
            (A, CAT, 0.9),
            (ALMOST_A, CAT, 0.8),
            (B, CAT, 0.7),
            (C, OWL, 0.2),
            (FAR, OWL, 0.6),
        ],
    ),
    ([(A, DOG)], []),
    ([], []),
    ([(A, DOG)], [(A, DOG, 0.9), (ALMOST_A, OWL, 0.8)]),
)
HALF = np.full(3, 0.5)
Row = tuple[int, str, int, float | None, float | None, int, bool]


def rows_of(matches: Matches) -> list[Row]:
    found = outcomes(matches, HALF)
    scores, ious = (
        [None if math.isnan(n) else round(n, 3) for n in values.tolist()]
        for values in (found.scores, found.ious)
    )
    kinds = [KINDS[kind] for kind in found.kinds]
    columns = (found.images, kinds, found.labels, scores, ious, found.gt_labels, found.above)
    return [
        (int(i), k, int(label), s, iou, int(gt), bool(a))
        for i, k, label, s, iou, gt, a in zip(*columns, strict=True)
    ]


def test_every_box_and_every_missed_object_is_listed_once() -> None:
    assert rows_of(WORLD) == [
        (0, "tp", CAT, 0.9, 1.0, CAT, True),
        (0, "fp", CAT, 0.8, 0.818, CAT, True),  # the cat already has a box
        (0, "fp", CAT, 0.7, 1.0, DOG, True),
        (0, "tp", OWL, 0.2, 1.0, OWL, False),
        (0, "fp", OWL, 0.6, 0.0, 0, True),
        (0, "fn", DOG, None, None, DOG, True),
        (0, "fn", OWL, None, None, OWL, True),  # its box is below the threshold
        (1, "fn", DOG, None, None, DOG, True),
        (3, "tp", DOG, 0.9, 1.0, DOG, True),
        (3, "fp", OWL, 0.8, 0.818, DOG, True),
    ]
    missed = outcomes(WORLD, HALF)
    assert missed.boxes[5].tolist() == list(B)


def test_the_confusion_counts_each_box_and_each_unseen_object() -> None:
    counts = confusion(WORLD, HALF, 3)
    assert counts.tolist() == [
        [0, 1, 0, 1],  # background: the second box of the cat, the owl on nothing
        [0, 1, 0, 0],
        [1, 1, 1, 1],  # dogs: one unseen, one taken for a cat, one found and taken for an owl too
        [1, 0, 0, 0],  # the owl below the threshold
    ]


def test_parts_of_the_images_give_the_same_as_all_of_them() -> None:
    parts = [WORLD.of_images(first, last) for first, last in ((0, 1), (1, 3), (3, 4))]
    assert [row for part in parts for row in rows_of(part)] == rows_of(WORLD)
    total = sum(confusion(part, HALF, 3) for part in parts)
    assert np.array_equal(total, confusion(WORLD, HALF, 3))


def test_below_half_an_overlap_a_box_of_another_class_is_on_the_background() -> None:
    third = (10 / 3 + 0.01, 0.0, 40 / 3 + 0.01, 10.0)  # IoU just below .5
    matches = match(([(A, DOG)], [(third, CAT, 0.9)]))
    assert [row[5] for row in rows_of(matches)] == [0, DOG]
    assert confusion(matches, HALF, 3)[0, CAT] == confusion(matches, HALF, 3)[DOG, 0] == 1


def test_no_images_give_empty_arrays() -> None:
    nothing = match()
    assert rows_of(nothing) == []
    assert confusion(nothing, HALF, 3).sum() == 0
