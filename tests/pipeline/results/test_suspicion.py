"""Scores of suspicious labels, worked out by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from fastrcnn.metrics import ImageDetections, ImageGroundTruth
from fastrcnn.metrics.inputs import pairwise_iou
from pipeline.results.suspicion import KINDS, Suspect, find_suspects
from tests.pipeline.results.simulated_labels import NUM_CLASSES, world

CAT, DOG = 1, 2
Box = tuple[float, float, float, float]
A: Box = (0, 0, 100, 100)
B: Box = (200, 0, 300, 100)
HALF: Box = (50, 0, 150, 100)  # IoU with A: 50 / 150


def truth(*objects: tuple[int, Box], **flags: list[bool]) -> ImageGroundTruth:
    return ImageGroundTruth(
        boxes=np.array([box for _, box in objects], np.float64).reshape(-1, 4),
        labels=np.array([label for label, _ in objects], np.int64),
        **{name: np.array(values) for name, values in flags.items()},
    )


def found(*boxes: tuple[int, float, Box]) -> ImageDetections:
    return ImageDetections(
        boxes=np.array([box for _, _, box in boxes], np.float64).reshape(-1, 4),
        labels=np.array([label for label, _, _ in boxes], np.int64),
        scores=np.array([score for _, score, _ in boxes], np.float64),
    )


def suspects(labels: ImageGroundTruth, seen: ImageDetections) -> list[Suspect]:
    return find_suspects([labels], [seen], 2)


def test_a_sure_detection_on_no_label_is_a_missing_label() -> None:
    (one,) = suspects(truth((CAT, A)), found((CAT, 0.95, A), (DOG, 0.8, B)))
    assert (one.kind, one.score, one.label, one.box) == ("missing_label", 0.8, 0, None)
    assert (one.found_label, one.found_box, one.iou) == (DOG, B, 0)


def test_a_second_box_of_a_labelled_object_is_no_missing_label() -> None:
    seen = found((CAT, 0.95, A), (DOG, 0.6, (0, 0, 100, 60)))  # IoU .6 with the cat
    kinds = {one.kind: one.score for one in suspects(truth((CAT, A)), seen)}
    assert "missing_label" not in kinds
    # It may be a dog; but a cat is seen there with .95.
    assert kinds["wrong_class"] == pytest.approx(0.6 * 0.05)


def test_between_iou_three_tenths_and_a_half_a_detection_counts_less() -> None:
    beside = (60.0, 0.0, 160.0, 100.0)  # IoU 40 / 160 = .25 with A: free
    nearer = (43.0, 0.0, 143.0, 100.0)  # IoU 57 / 143 = .3986: (.5 - .3986) / .2 = .507
    for box, factor in ((beside, 1.0), (nearer, 0.507)):
        seen = found((CAT, 0.9, A), (DOG, 0.8, box))
        (one,) = suspects(truth((CAT, A)), seen)
        assert one.score == pytest.approx(0.8 * factor, abs=0.002)


def test_two_detections_of_one_place_are_one_missing_label() -> None:
    (one,) = suspects(truth(), found((CAT, 0.7, B), (DOG, 0.4, (200, 0, 300, 90))))
    assert (one.found_label, one.score) == (CAT, 0.7)


def test_a_label_that_another_class_fits_has_a_wrong_class() -> None:
    (one,) = suspects(truth((CAT, A)), found((DOG, 0.9, A), (CAT, 0.2, A)))
    assert (one.kind, one.label, one.found_label) == ("wrong_class", CAT, DOG)
    assert one.score == pytest.approx(0.9 * (1 - 0.2))


def test_a_detection_that_a_label_of_its_class_explains_accuses_no_other() -> None:
    near = (0.0, 0.0, 100.0, 80.0)  # two objects at nearly one place
    seen = found((DOG, 0.9, A), (CAT, 0.1, near))
    assert [one.kind for one in suspects(truth((CAT, near), (DOG, A)), seen)] == []


def test_a_label_whose_class_is_seen_beside_it_has_a_bad_box() -> None:
    (one,) = suspects(truth((CAT, A)), found((CAT, 0.9, HALF)))
    # No pair tells the usual IoU, so it is 1: .9 (1 - 1/3).
    assert (one.kind, one.box, one.found_box) == ("bad_box", A, HALF)
    assert one.score == pytest.approx(0.9 * (1 - 1 / 3))
    assert one.iou == pytest.approx(1 / 3)


def test_a_detection_that_fits_the_label_better_clears_it() -> None:
    seen = found((CAT, 0.8, A), (CAT, 0.5, HALF))
    kinds = {one.kind: one.score for one in suspects(truth((CAT, A)), seen)}
    # The box beside it may be another object: .5, times .167 for its overlap, times .8.
    assert kinds["bad_box"] == pytest.approx(0.5 * (2 / 3) * (1 - 0.8))
    assert kinds["missing_label"] == pytest.approx(0.5 * (0.5 - 1 / 3) / 0.2 * 0.8)


def test_usual_differences_of_boxes_are_no_bad_boxes() -> None:
    loose: Box = (0, 0, 100, 80)  # IoU .8 with A
    labels = [truth((CAT, A))] * 12
    assert find_suspects(labels, [found((CAT, 0.9, loose))] * 12, 2) == []


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_ignored_objects_are_neither_suspects_nor_empty_places(flag: str) -> None:
    labels = truth((CAT, A), **{flag: [True]})
    assert suspects(labels, found((CAT, 0.9, A))) == []


def test_ignored_regions_hide_what_is_in_them() -> None:
    labels = ImageGroundTruth(
        boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64), ignored_regions=np.array([B])
    )
    assert suspects(labels, found((CAT, 0.9, B))) == []


def test_suspects_are_ranked_over_all_images() -> None:
    labels = [truth(), truth((CAT, A)), truth()]
    seen = [found((CAT, 0.3, A)), found((DOG, 0.9, A)), found()]
    ranked = find_suspects(labels, seen, 2, min_score=0.2)
    assert [(one.kind, one.image) for one in ranked] == [("wrong_class", 1), ("missing_label", 0)]
    assert find_suspects(labels, seen, 2, min_score=0.95) == []


# --- Planted faults and a simulated detector -----------------------------------------------------


@cache
def shares() -> dict[str, tuple[float, float]]:
    """Precision of the first 100 of each kind, and recall of all from .1 on, of 10% faulty labels."""
    made = world(2000)
    ranked = find_suspects(made.labels, made.detections, NUM_CLASSES, min_score=0.1)
    shares = {}
    for kind in KINDS:
        planted = {(i, *box.tolist()) for i, of, box in made.faults if of == kind}
        hits = []
        for one in ranked:
            if one.kind == kind:
                hits.append(next((f for f in planted if _shows(one, f)), None))
        found = {hit for hit in hits if hit is not None}
        right = sum(hit is not None for hit in hits[:100])
        shares[kind] = (right / len(hits[:100]), len(found) / len(planted))
    return shares


def _shows(one: Suspect, fault: tuple[float, ...]) -> bool:
    if one.image != fault[0]:
        return False
    box = one.found_box if one.box is None else one.box
    iou = pairwise_iou(np.array([box]), np.array([fault[1:]]))[0, 0]
    return bool(iou >= (0.5 if one.box is None else 0.99))


@pytest.mark.parametrize("kind", ["missing_label", "wrong_class"])
def test_a_good_detector_finds_planted_faults(kind: str) -> None:
    precision, recall = shares()[kind]
    assert precision >= 0.9
    assert recall >= 0.8


def test_most_bad_boxes_are_found() -> None:
    precision, recall = shares()["bad_box"]
    assert precision >= 0.75
    assert recall >= 0.8
