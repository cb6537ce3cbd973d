"""Average precision and recall, compared with published results, hand-made cases and plain loops."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from fastrcnn.metrics import (
    COCOResult,
    ImageDetections,
    ImageGroundTruth,
    VOCResult,
    average_precision,
    evaluate_coco,
    evaluate_map50_95,
    evaluate_voc,
    proposal_recall,
)
from fastrcnn.metrics.inputs import pairwise_iou
from tests.fastrcnn.scored_images import coco_val2014, random_images, voc_style
from tests.fastrcnn.slow_metrics import slow_ap, slow_curve

Box = tuple[float, float, float, float]
UNIT = (0, 0, 10, 10)
SHIFTED = (2, 0, 12, 10)  # IoU with UNIT: 80 / 120
FAR = (50, 50, 60, 60)


def _boxes(boxes: Iterable[Box]) -> npt.NDArray[np.float32]:
    return np.array(list(boxes), np.float32).reshape(-1, 4)


def _truth(
    *objects: tuple[int, Box], difficult: Iterable[int] = (), crowd: Iterable[int] = ()
) -> ImageGroundTruth:
    numbers = np.arange(len(objects))
    return ImageGroundTruth(
        boxes=_boxes(box for _, box in objects),
        labels=np.array([label for label, _ in objects], np.int64),
        difficult=np.isin(numbers, list(difficult)),
        crowd=np.isin(numbers, list(crowd)),
    )


def _found(*objects: tuple[int, Box, float]) -> ImageDetections:
    return ImageDetections(
        boxes=_boxes(box for _, box, _ in objects),
        labels=np.array([label for label, _, _ in objects], np.int64),
        scores=np.array([score for _, _, score in objects], np.float32),
    )


# --- average_precision -----------------------------------------------------------------------


def test_both_areas_of_a_curve_equal_hand_computed_ones() -> None:
    assert average_precision([0.5, 1], [1, 0.5], "voc07") == pytest.approx(0.772727, abs=1e-6)
    assert average_precision([0.5, 1], [1, 0.5], "area") == 0.75


@pytest.mark.parametrize("method", ["voc07", "area"])
def test_an_empty_curve_is_zero_and_a_perfect_one_is_one(method: str) -> None:
    assert average_precision([], [], method) == 0  # type: ignore[arg-type]
    assert average_precision([1.0], [1.0], method) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("found", range(1, 11))
def test_a_recall_of_k_tenths_reaches_its_level(found: int) -> None:
    recall = np.arange(1, found + 1) / 10
    assert average_precision(recall, np.ones(found), "voc07") == pytest.approx((found + 1) / 11)


def test_precision_that_rises_again_counts_for_the_lower_recalls() -> None:
    # One false positive first: precision 0, 1/2, 2/3 at recall 0, 1/2, 1; the envelope is 2/3.
    assert average_precision([0, 0.5, 1], [0, 0.5, 2 / 3], "area") == pytest.approx(2 / 3)
    assert average_precision([0, 0.5, 1], [0, 0.5, 2 / 3], "voc07") == pytest.approx(2 / 3)


def test_an_unknown_method_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 'voc07' or 'area'"):
        average_precision([1], [1], "voc12")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one dimension and equal lengths"):
        average_precision([0.5, 1], [1])


# --- evaluate_voc: the rules, one at a time ----------------------------------------------------


def test_the_second_detection_of_an_object_is_a_false_positive() -> None:
    result = evaluate_voc([_truth((1, UNIT))], [_found((1, SHIFTED, 0.9), (1, UNIT, 0.8))], 1)
    assert result.curves[0].recall.tolist() == [1, 1]
    assert result.curves[0].precision.tolist() == [1, 0.5]
    assert result.curves[0].scores == pytest.approx([0.9, 0.8])


def test_a_detection_matches_the_object_of_highest_iou_even_if_that_is_matched_already() -> None:
    # Both detections overlap UNIT most. The second overlaps SHIFTED by 2/3, and still is wrong.
    truth = _truth((1, UNIT), (1, SHIFTED))
    result = evaluate_voc([truth], [_found((1, UNIT, 0.9), (1, UNIT, 0.8))], 1)
    assert result.curves[0].recall.tolist() == [0.5, 0.5]


def test_overlap_equal_to_the_threshold_is_enough() -> None:
    half = (0, 0, 10, 5)
    for threshold, expected in ((0.5, 1.0), (np.nextafter(0.5, 1), 0.0)):
        result = evaluate_voc(
            [_truth((1, UNIT))], [_found((1, half, 0.9))], 1, iou_threshold=threshold
        )
        assert result.mean_ap == expected


def test_iou_has_no_plus_one() -> None:
    # facts/fast-rcnn.md, oracle 8: 1/3 with +1, 2/7 without.
    truth, found = [_truth((1, (0, 0, 9, 9)))], [_found((1, (5, 0, 14, 9), 0.9))]
    assert evaluate_voc(truth, found, 1, iou_threshold=2 / 7 - 1e-12).mean_ap == 1
    assert evaluate_voc(truth, found, 1, iou_threshold=0.3).mean_ap == 0


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_a_difficult_object_is_ignored(flag: str) -> None:
    truth = [_truth((1, UNIT), (1, FAR), **{flag: [1]})]
    found = [_found((1, FAR, 0.9), (1, FAR, 0.85), (1, UNIT, 0.8))]
    result = evaluate_voc(truth, found, 1)
    assert result.num_gt.tolist() == [1]
    assert result.curves[0].recall.tolist() == [1]
    assert result.curves[0].precision.tolist() == [1]


def test_a_detection_on_an_object_of_another_class_is_a_false_positive() -> None:
    result = evaluate_voc([_truth((1, UNIT), (2, FAR))], [_found((2, UNIT, 0.9))], 2)
    assert result.ap.tolist() == [0, 0]
    assert result.curves[1].precision.tolist() == [0]


def test_an_image_without_objects_still_counts_its_false_positives() -> None:
    truth = [_truth(), _truth((1, UNIT))]
    found = [_found((1, UNIT, 0.9)), _found((1, UNIT, 0.8))]
    assert evaluate_voc(truth, found, 1, method="area").mean_ap == 0.5
    assert evaluate_voc(truth[1:], found[1:], 1, method="area").mean_ap == 1


def test_a_class_without_objects_is_nan_and_not_in_the_mean() -> None:
    result = evaluate_voc(
        [_truth((1, UNIT))], [_found((1, UNIT, 0.9), (2, UNIT, 0.9), (3, UNIT, 0.1))], 3
    )
    assert result.ap[0] == result.mean_ap == 1
    assert np.isnan(result.ap[1:]).all()
    assert np.isnan(result.curves[1].recall).all()


def test_a_class_that_is_never_detected_is_zero_and_in_the_mean() -> None:
    result = evaluate_voc([_truth((1, UNIT), (2, FAR))], [_found((1, UNIT, 0.9))], 2)
    assert result.ap.tolist() == [1, 0]
    assert result.mean_ap == 0.5


def test_without_any_object_the_mean_is_nan() -> None:
    assert np.isnan(evaluate_voc([_truth()], [_found()], 2).mean_ap)
    assert np.isnan(evaluate_voc([], [], 2).mean_ap)
    assert np.isnan(evaluate_voc([_truth((1, UNIT), difficult=[0])], [_found()], 1).mean_ap)


def test_without_any_detection_the_mean_is_zero() -> None:
    assert evaluate_voc([_truth((1, UNIT), (2, FAR))], [_found()], 2).mean_ap == 0


def test_detections_with_equal_scores_keep_their_order() -> None:
    truth = [_truth((1, UNIT))]
    right_first = evaluate_voc(truth, [_found((1, UNIT, 0.5), (1, FAR, 0.5))], 1, method="area")
    wrong_first = evaluate_voc(truth, [_found((1, FAR, 0.5), (1, UNIT, 0.5))], 1, method="area")
    assert (right_first.mean_ap, wrong_first.mean_ap) == (1, 0.5)


def test_boxes_without_area_have_no_overlap() -> None:
    point = (5, 5, 5, 5)
    result = evaluate_voc([_truth((1, point))], [_found((1, point, 0.9))], 1)
    assert result.mean_ap == 0


def test_malformed_input_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="1 images with objects, 0 with detections"):
        evaluate_voc([_truth()], [], 1)
    with pytest.raises(ValueError, match=r"labels \[0\]: expected 1 to 2"):
        evaluate_voc([_truth((0, UNIT))], [_found()], 2)
    with pytest.raises(ValueError, match=r"labels \[3\]: expected 1 to 2"):
        evaluate_voc([_truth()], [_found((3, UNIT, 0.5))], 2)
    with pytest.raises(ValueError, match="score nan is not finite"):
        _found((1, UNIT, float("nan")))
    with pytest.raises(ValueError, match="box .* is not finite"):
        _truth((1, (0, 0, float("inf"), 1)))
    with pytest.raises(ValueError, match="have the shape .*: expected"):
        ImageGroundTruth(boxes=_boxes([UNIT]), labels=np.zeros(2, np.int64))
    with pytest.raises(ValueError, match=r"expected \(number, 4\)"):
        ImageGroundTruth(boxes=np.zeros((2, 5)), labels=np.ones(2, np.int64))


# --- evaluate_voc against a slow second implementation ------------------------------------------


SIDE = st.integers(0, 6)
BOX = st.tuples(SIDE, SIDE, SIDE, SIDE).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)
LABEL = st.integers(1, 3)
TRUTH = st.lists(st.tuples(LABEL, BOX), max_size=5).flatmap(
    lambda objects: st.builds(
        lambda difficult, crowd: _truth(*objects, difficult=difficult, crowd=crowd),
        st.sets(st.integers(0, 4), max_size=2),
        st.sets(st.integers(0, 4), max_size=1),
    )
)
FOUND = st.lists(
    st.tuples(LABEL, BOX, st.integers(1, 6).map(lambda tenths: tenths / 8)), max_size=8
).map(lambda objects: _found(*objects))


@settings(max_examples=150, deadline=None)
@given(
    images=st.lists(st.tuples(TRUTH, FOUND), max_size=4), method=st.sampled_from(["voc07", "area"])
)
def test_any_small_case_agrees_with_the_slow_implementation(
    images: list[tuple[ImageGroundTruth, ImageDetections]], method: str
) -> None:
    truth, found = [t for t, _ in images], [d for _, d in images]
    result = evaluate_voc(truth, found, 3, method=method)  # type: ignore[arg-type]
    expected = [
        slow_ap(slow_curve(truth, found, label), method) if result.num_gt[label - 1] else np.nan
        for label in (1, 2, 3)
    ]
    np.testing.assert_allclose(result.ap, expected, atol=1e-12)
    assert result.mean_ap == pytest.approx(
        np.nanmean(expected) if not np.isnan(expected).all() else np.nan, nan_ok=True
    )


# --- evaluate_voc on larger input ---------------------------------------------------------------


def test_the_order_of_images_and_of_detections_does_not_matter_without_ties() -> None:
    truth, found = random_images(0, 40, 6, 15, 5)
    result = evaluate_voc(truth, found, 5)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(truth))
    mixed = []
    for i in order:
        inside = rng.permutation(len(found[i].boxes))
        d = found[i]
        mixed.append(
            ImageDetections(boxes=d.boxes[inside], labels=d.labels[inside], scores=d.scores[inside])
        )
    again = evaluate_voc([truth[i] for i in order], mixed, 5)
    assert 0.2 < result.mean_ap < 0.9
    np.testing.assert_array_equal(again.ap, result.ap)


def test_only_the_order_of_scores_matters() -> None:
    truth, found = random_images(2, 20, 6, 15, 5)
    result = evaluate_voc(truth, found, 5)
    cubed = [
        ImageDetections(boxes=d.boxes, labels=d.labels, scores=d.scores.astype(np.float64) ** 3 - 7)
        for d in found
    ]
    np.testing.assert_array_equal(evaluate_voc(truth, cubed, 5).ap, result.ap)


def test_scaling_all_boxes_changes_nothing() -> None:
    truth, found = random_images(3, 20, 6, 15, 5)
    larger = evaluate_voc(
        [
            ImageGroundTruth(boxes=t.boxes * 4, labels=t.labels, difficult=t.difficult)
            for t in truth
        ],
        [ImageDetections(boxes=d.boxes * 4, labels=d.labels, scores=d.scores) for d in found],
        5,
    )
    np.testing.assert_array_equal(larger.ap, evaluate_voc(truth, found, 5).ap)


def test_a_hundred_thousand_detections_take_seconds() -> None:
    truth, found = random_images(4, 1000, 8, 100, 20)
    start = time.process_time()
    evaluate_voc(truth, found, 20)
    assert time.process_time() - start < 10


# --- published answers ---------------------------------------------------------------------------


def test_thirty_classes_agree_with_the_published_answers(shared_data: Path) -> None:
    truth, found, names = voc_style(shared_data / "eval_vectors" / "voc_style_30class")
    assert (len(truth), sum(len(t.boxes) for t in truth)) == (85, 686)
    assert sum(len(d.boxes) for d in found) == 494
    area = evaluate_voc(truth, found, len(names), method="area")
    assert np.isfinite(area.ap).sum() == 30
    assert area.mean_ap == pytest.approx(0.310297, abs=5e-7)


def test_with_one_added_to_every_side_each_class_agrees_too(shared_data: Path) -> None:
    folder = shared_data / "eval_vectors" / "voc_style_30class"
    truth, found, names = voc_style(folder)
    one = np.array([0, 0, 1, 1], np.float32)
    truth = [ImageGroundTruth(boxes=t.boxes + one, labels=t.labels) for t in truth]
    found = [ImageDetections(boxes=d.boxes + one, labels=d.labels, scores=d.scores) for d in found]
    area = evaluate_voc(truth, found, len(names), method="area")
    assert area.mean_ap == pytest.approx(0.310477, abs=5e-7)
    expected = json.loads((folder / "expected.json").read_text())["per_class"]
    actual = {name: ap for name, ap in zip(names, area.ap, strict=True) if np.isfinite(ap)}
    assert actual == pytest.approx(expected, abs=1e-12)
    voc07 = evaluate_voc(truth, found, len(names), method="voc07")
    assert voc07.mean_ap == pytest.approx(0.316965, abs=5e-7)


def _toy(folder: Path, plus: float) -> tuple[list[ImageGroundTruth], list[ImageDetections]]:
    def box(words: list[str]) -> Box:
        x, y, w, h = map(float, words)
        return x, y, x + w + plus, y + h + plus

    truth, found = [], []
    for path in sorted((folder / "groundtruths").glob("*.txt")):
        rows = [line.split() for line in path.read_text().splitlines()]
        truth.append(_truth(*((1, box(r[1:])) for r in rows)))
        rows = [
            line.split() for line in (folder / "detections" / path.name).read_text().splitlines()
        ]
        found.append(_found(*((1, box(r[2:]), float(r[1])) for r in rows)))
    return truth, found


def test_seven_toy_images_agree_with_the_published_answers(shared_data: Path) -> None:
    folder = shared_data / "eval_vectors" / "toy_7images"
    truth, found = _toy(folder, plus=0)
    assert (sum(len(t.boxes) for t in truth), sum(len(d.boxes) for d in found)) == (15, 24)
    area = evaluate_voc(truth, found, 1, iou_threshold=0.3, method="area")
    assert area.mean_ap == pytest.approx(0.225397, abs=5e-7)
    truth, found = _toy(folder, plus=1)
    values = [
        evaluate_voc(truth, found, 1, iou_threshold=iou, method=method).mean_ap
        for iou in (0.3, 0.5)
        for method in ("area", "voc07")
    ]
    assert values == pytest.approx([0.245687, 0.268398, 0.022222, 0.030303], abs=5e-7)


# --- COCO ---------------------------------------------------------------------------------------


def test_coco_agrees_with_the_published_table(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, found, num_classes = coco_val2014(shared_data / "eval_vectors" / "coco_val2014_100")
    assert sum(len(t.boxes) for t in truth) == 839
    result = evaluate_coco(truth, found, num_classes)
    printed = [
        round(value, 3)
        for value in (
            *(result.ap, result.ap50, result.ap75),
            *(result.ap_small, result.ap_medium, result.ap_large),
            *(result.ar_1, result.ar_10, result.ar_100),
        )
    ]
    assert printed == [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595]
    assert np.nanmean(result.ap_per_class) == pytest.approx(result.ap, abs=1e-12)
    assert capsys.readouterr().out == ""


def test_coco_of_perfect_detections_is_one_and_absent_classes_and_sizes_are_nan() -> None:
    result = evaluate_coco(
        [_truth((1, UNIT), (1, FAR))], [_found((1, UNIT, 0.9), (1, FAR, 0.8))], 2
    )
    assert (result.ap, result.ap50, result.ap_small) == pytest.approx((1, 1, 1))
    assert (result.ar_1, result.ar_10) == (0.5, 1)
    assert np.isnan(result.ap_large)
    assert result.ap_per_class[0] == pytest.approx(1)
    assert np.isnan(result.ap_per_class[1])


def test_coco_ignores_detections_inside_a_crowd() -> None:
    found = [_found((1, (50, 50, 55, 55), 0.95), (1, (56, 50, 60, 60), 0.93), (1, UNIT, 0.9))]
    with_crowd = evaluate_coco([_truth((1, UNIT), (1, FAR), crowd=[1])], found, 1)
    assert with_crowd.ap == pytest.approx(1)
    without = evaluate_coco([_truth((1, UNIT))], found, 1)
    assert without.ap == pytest.approx(1 / 3)


@pytest.mark.parametrize("evaluate", [evaluate_voc, evaluate_coco])
def test_a_detection_of_any_class_in_an_ignored_region_is_no_mistake(
    evaluate: Callable[..., VOCResult | COCOResult],
) -> None:
    truth = _truth((1, UNIT), (2, UNIT))
    found = _found((1, FAR, 0.9), (2, FAR, 0.8), (1, UNIT, 0.7), (2, UNIT, 0.6))
    region = replace(truth, ignored_regions=_boxes([FAR]))

    def ap(image: ImageGroundTruth) -> float:
        result = evaluate([image], [found], 2)
        return result.mean_ap if isinstance(result, VOCResult) else result.ap

    assert ap(truth) == pytest.approx(0.5, abs=0.01)  # the first of two detections is wrong
    assert ap(region) == pytest.approx(1)


def test_an_ignored_region_is_no_object_that_can_be_missed() -> None:
    truth = replace(_truth((1, UNIT)), ignored_regions=_boxes([FAR, SHIFTED]))
    assert evaluate_voc([truth], [_found((1, UNIT, 0.9))], 1).num_gt.tolist() == [1]


def test_coco_ignores_a_difficult_object_but_not_a_small_box_inside_it() -> None:
    truth = [_truth((1, UNIT), (1, FAR), difficult=[1])]
    assert evaluate_coco(truth, [_found((1, FAR, 0.9), (1, UNIT, 0.8))], 1).ap == pytest.approx(1)
    inside = (50, 50, 53, 53)  # a crowd would forgive it
    assert evaluate_coco(truth, [_found((1, inside, 0.9), (1, UNIT, 0.8))], 1).ap == pytest.approx(
        0.5
    )


def test_coco_counts_false_positives_of_images_without_objects() -> None:
    truth = [_truth(), _truth((1, UNIT))]
    assert evaluate_coco(
        truth, [_found((1, FAR, 0.9)), _found((1, UNIT, 0.8))], 1
    ).ap == pytest.approx(0.5)


def test_coco_without_detections_is_zero_and_without_objects_nan() -> None:
    assert evaluate_coco([_truth((1, UNIT))], [_found()], 1).ap == 0
    assert np.isnan(evaluate_coco([_truth()], [_found((1, UNIT, 0.5))], 1).ap)
    assert np.isnan(evaluate_coco([_truth()], [_found()], 1).ap)
    assert np.isnan(evaluate_coco([], [], 1).ap)


def test_coco_at_one_iou_agrees_with_voc_without_crowds_and_difficult_objects() -> None:
    truth, found = random_images(5, 30, 4, 8, 3)
    plain = [ImageGroundTruth(boxes=t.boxes, labels=t.labels) for t in truth]
    # They differ in reading the curve (101 points, area) and in what a second detection may take.
    assert evaluate_coco(plain, found, 3).ap50 == pytest.approx(
        evaluate_voc(plain, found, 3, method="area").mean_ap, abs=0.03
    )


# --- IoU ---------------------------------------------------------------------------------------


def test_iou_equals_torchvisions() -> None:
    truth, found = random_images(7, 5, 6, 15, 1)
    for t, d in zip(truth, found, strict=True):
        expected = box_iou(torch.tensor(d.boxes).double(), torch.tensor(t.boxes).double())
        np.testing.assert_allclose(pairwise_iou(d.boxes, t.boxes), expected.numpy(), rtol=1e-12)
    assert pairwise_iou(_boxes([UNIT]), _boxes([])).shape == (1, 0)
    assert pairwise_iou(_boxes([]), _boxes([UNIT])).shape == (0, 1)


# --- proposal recall -----------------------------------------------------------------------------


def test_recall_counts_objects_that_have_a_near_proposal() -> None:
    # Best IoUs by hand: 80/120 = 2/3 with SHIFTED, then 1, then 0 in the image without proposals.
    result = proposal_recall(
        [_boxes([SHIFTED, FAR]), _boxes([])], [_boxes([UNIT, FAR]), _boxes([UNIT])]
    )
    assert result.recalls == (2 / 3, 1 / 3)
    assert result.average_recall == pytest.approx((2 * (2 / 3 - 0.5) + 2 * 0.5 + 0) / 3)
    assert result.num_gt == 3


def test_one_proposal_may_cover_two_objects_and_the_threshold_itself_is_enough() -> None:
    result = proposal_recall([_boxes([UNIT])], [_boxes([(0, 0, 10, 5), UNIT])], (0.5,))
    assert result.recalls == (1,)


def test_without_objects_recall_is_nan() -> None:
    result = proposal_recall([_boxes([UNIT]), _boxes([])], [_boxes([]), _boxes([])])
    assert (result.num_gt, len(result.recalls)) == (0, 2)
    assert np.isnan([*result.recalls, result.average_recall]).all()
    with pytest.raises(ValueError, match="2 images with proposals, 1 with objects"):
        proposal_recall([_boxes([]), _boxes([])], [_boxes([])])


def test_average_recall_is_the_mean_over_many_thresholds() -> None:
    truth, found = random_images(6, 20, 6, 15, 1)
    thresholds = np.linspace(0.5, 1, 2001)
    result = proposal_recall(
        [d.boxes for d in found], [t.boxes for t in truth], tuple(thresholds.tolist())
    )
    assert result.average_recall == pytest.approx(np.mean(result.recalls), abs=1e-3)


def test_map50_95_is_the_mean_over_ten_thresholds() -> None:
    """At an IoU of 2/3 the box is right at .5, .55, .6 and .65; the second class is found exactly."""
    truth = [_truth((1, UNIT), (2, FAR))]
    found = [_found((1, SHIFTED, 0.9), (2, FAR, 0.8))]
    assert evaluate_map50_95(truth, found, 2) == pytest.approx((0.4 + 1) / 2)
    assert evaluate_map50_95(truth, [_found()], 2) == 0
    assert np.isnan(evaluate_map50_95([_truth()], [_found()], 2))
