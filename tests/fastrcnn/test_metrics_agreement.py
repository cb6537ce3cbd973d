"""The metrics, pycocotools and plain loops give the same numbers, on random and on real detections."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fastrcnn.metrics import (
    ImageDetections,
    ImageGroundTruth,
    VOCResult,
    evaluate_coco,
    evaluate_map50_95,
    evaluate_voc,
    proposal_recall,
)
from tests.fastrcnn.scored_images import (
    Images,
    coco_val2014,
    disjoint_images,
    random_images,
    voc_style,
)
from tests.fastrcnn.slow_metrics import flagged, iou, slow_ap, slow_coco_ap, slow_curve, slow_recall


def real(name: str, folder: Path) -> tuple[Images, int]:
    """Load the detections of a detector on photographs. Every fifth object is marked as difficult."""
    if name == "voc":
        truth, found, names = voc_style(folder / "eval_vectors" / "voc_style_30class")
        num_classes = len(names)
    else:
        truth, found, num_classes = coco_val2014(folder / "eval_vectors" / "coco_val2014_100")
    rng = np.random.default_rng(0)
    marked = [
        ImageGroundTruth(
            boxes=t.boxes, labels=t.labels, crowd=t.crowd, difficult=rng.random(len(t.boxes)) < 0.2
        )
        for t in truth
    ]
    return (marked, found), num_classes


@pytest.fixture(params=["random", "disjoint", "voc", "coco"])
def images(request: pytest.FixtureRequest) -> tuple[Images, int]:
    if request.param == "random":
        return random_images(11, 40, 6, 15, 4), 4
    if request.param == "disjoint":
        return disjoint_images(12, 40, 4), 4
    return real(request.param, request.getfixturevalue("shared_data"))


@pytest.mark.parametrize("method", ["voc07", "area"])
def test_every_curve_and_ap_equals_that_of_plain_loops(
    images: tuple[Images, int], method: str
) -> None:
    (truth, found), num_classes = images
    result = evaluate_voc(truth, found, num_classes, method=method)  # type: ignore[arg-type]
    assert np.isfinite(result.ap).sum() >= min(num_classes, 25)
    for label in range(1, num_classes + 1):
        if not result.num_gt[label - 1]:
            assert np.isnan(result.ap[label - 1])
            continue
        points = slow_curve(truth, found, label)
        curve = result.curves[label - 1]
        ours = np.stack([curve.recall, curve.precision, curve.scores], axis=1)
        np.testing.assert_allclose(ours, np.reshape(points, (-1, 3)), rtol=1e-12)
        assert result.ap[label - 1] == pytest.approx(slow_ap(points, method), abs=1e-12)


def test_map50_95_is_near_cocos_average_precision(images: tuple[Images, int]) -> None:
    """COCO reads 101 points of a curve, and lets a crowd take several detections."""
    (truth, found), num_classes = images
    coco = evaluate_coco(truth, found, num_classes).ap
    assert evaluate_map50_95(truth, found, num_classes) == pytest.approx(coco, abs=0.012)


class WithDifficult(COCOeval):  # type: ignore[misc]
    """pycocotools' evaluation, which also ignores difficult objects. The original ignores crowds only."""

    def _prepare(self) -> None:
        super()._prepare()
        for objects in self._gts.values():
            for row in objects:
                row["ignore"] = row["ignore"] or row["difficult"]


def pycocotools_evaluation(
    truth: Sequence[ImageGroundTruth], found: Sequence[ImageDetections], thresholds: list[float]
) -> COCOeval:
    """Evaluate all detections, however many, at these IoUs."""

    def rows(images: Sequence[Any]) -> COCO:
        data = COCO()
        entries = []
        for number, image in enumerate(images, 1):
            for n, (x1, y1, x2, y2) in enumerate(image.boxes.astype(float).tolist()):
                row = {"image_id": number, "category_id": int(image.labels[n]), "iscrowd": 0}
                row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                if isinstance(image, ImageGroundTruth):
                    row["difficult"] = flagged(image.difficult, n) or flagged(image.crowd, n)
                else:
                    row["score"] = float(image.scores[n])
                entries.append(row | {"id": len(entries) + 1})
        labels = {int(label) for image in (*truth, *found) for label in image.labels}
        data.dataset = {
            "images": [{"id": number} for number in range(1, len(images) + 1)],
            "categories": [{"id": label} for label in sorted(labels)],
            "annotations": entries,
        }
        data.createIndex()
        return data

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = WithDifficult(rows(truth), rows(found), iouType="bbox")
        evaluation.params.iouThrs = np.array(thresholds)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100_000]
    return evaluation


def pycocotools_aps(
    truth: Sequence[ImageGroundTruth], found: Sequence[ImageDetections], result: VOCResult
) -> tuple[dict[int, float], dict[int, float]]:
    """Compute 11-point AP and area for each class: the best precisions at recalls k / 10 and k / objects."""
    evaluation = pycocotools_evaluation(truth, found, [0.5])
    steps = {n: [k / n for k in range(1, n + 1)] for n in (10, *result.num_gt.tolist()) if n}
    levels = np.array(sorted({0.0, *(level for own in steps.values() for level in own)}))
    evaluation.params.recThrs = levels
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    at = {level: index for index, level in enumerate(levels.tolist())}
    eleven, area = {}, {}
    for column, label in enumerate(evaluation.params.catIds):
        precision = evaluation.eval["precision"][0, :, column, 0, 0]
        n = int(result.num_gt[label - 1])
        if n:
            eleven[label] = float(np.mean([precision[at[k]] for k in [0.0, *steps[10]]]))
            area[label] = float(np.mean([precision[at[k]] for k in steps[n]]))
    return eleven, area


def same_matching(
    truth: Sequence[ImageGroundTruth], found: Sequence[ImageDetections], label: int
) -> bool:
    """Tell whether no detection can match two objects and no ignored object is detected twice."""
    for t, d in zip(truth, found, strict=True):
        own = [g for g in range(len(t.boxes)) if t.labels[g] == label]
        boxes = d.boxes[d.labels == label].astype(float).tolist()
        hits = [[iou(b, t.boxes[g].astype(float).tolist()) >= 0.5 for g in own] for b in boxes]
        if any(sum(row) > 1 for row in hits):
            return False
        for column, g in enumerate(own):
            ignored = flagged(t.difficult, g) or flagged(t.crowd, g)
            if ignored and sum(row[column] for row in hits) > 1:
                return False
    return True


@pytest.mark.parametrize("images", ["disjoint", "voc", "coco"], indirect=True)
def test_every_ap_equals_that_of_pycocotools_if_the_matching_is_the_same(
    images: tuple[Images, int],
) -> None:
    (truth, found), num_classes = images
    voc07 = evaluate_voc(truth, found, num_classes, method="voc07")
    area = evaluate_voc(truth, found, num_classes, method="area")
    expected_voc07, expected_area = pycocotools_aps(truth, found, voc07)
    alike = [label for label in expected_area if same_matching(truth, found, label)]
    assert len(alike) >= 0.8 * len(expected_area)
    for label in alike:
        assert voc07.ap[label - 1] == pytest.approx(expected_voc07[label], abs=1e-12)
        assert area.ap[label - 1] == pytest.approx(expected_area[label], abs=1e-12)
    assert 0.1 < area.mean_ap < 0.95


def test_cocos_ap_of_each_class_equals_that_of_plain_loops(images: tuple[Images, int]) -> None:
    (truth, found), num_classes = images
    result = evaluate_coco(truth, found, num_classes)
    counts = np.bincount(np.concatenate([t.labels for t in truth]), minlength=num_classes + 1)
    for label in np.argsort(counts)[-12:].tolist():  # of the most objects
        if counts[label]:
            expected = slow_coco_ap(truth, found, label)
            assert result.ap_per_class[label - 1] == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("images", ["random", "disjoint", "voc", "coco"], indirect=True)
def test_recall_of_proposals_equals_that_of_plain_loops_and_of_pycocotools(
    images: tuple[Images, int],
) -> None:
    (truth, found), _ = images
    thresholds = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    boxes, gt_boxes = [d.boxes for d in found], [t.boxes for t in truth]
    ours = proposal_recall(boxes, gt_boxes, thresholds)
    assert list(ours.recalls) == [slow_recall(boxes, gt_boxes, t) for t in thresholds]
    assert ours.recalls[0] > ours.recalls[-1]
    # pycocotools gives an object to one proposal: they agree where none is near two objects.
    single = [
        (ImageGroundTruth(boxes=t.boxes, labels=np.ones(len(t.boxes), np.int64)), d)
        for t, d in zip(truth, found, strict=True)
        if len(t.boxes) and all(sum(iou(b, g) >= 0.5 for g in t.boxes) <= 1 for b in d.boxes)
    ]
    assert len(single) >= (20 if len(truth) > 40 else 1)
    part = [t for t, _ in single]
    evaluation = pycocotools_evaluation(part, [d for _, d in single], thresholds)
    evaluation.params.useCats = 0
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    again = proposal_recall([d.boxes for _, d in single], [t.boxes for t in part], thresholds)
    np.testing.assert_allclose(again.recalls, evaluation.eval["recall"][:, 0, 0, 0], rtol=1e-12)
