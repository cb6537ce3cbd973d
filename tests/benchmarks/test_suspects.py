"""Planted faults, and the measure of what was found of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.planted_faults import BAD_IOU, KINDS, Fault, plant, read_faults
from benchmarks.suspects import judge, measure
from fastrcnn.metrics.inputs import pairwise_iou
from pipeline.annotations import LabelledImages, read_labelled_images
from pipeline.draw_scenes import draw_split
from pipeline.drawing.scenes import SHAPES


def read(folder: Path) -> LabelledImages:
    return read_labelled_images(str(folder), "train", classes=tuple(SHAPES))


def test_planted_faults_are_the_only_changes(tmp_path: Path) -> None:
    draw_split(tmp_path, "train", range(40), 1)
    before = read(tmp_path)
    faults = plant(tmp_path, tuple(SHAPES), share=0.3, seed=2)
    assert read_faults(tmp_path) == faults
    total = sum(len(image.gt_boxes) for image in before.images)
    assert len(faults) == round(0.3 * total)
    after = read(tmp_path)
    changed = {fault.image for fault in faults}
    for old, new in zip(before.images, after.images, strict=True):
        of_image = [fault for fault in faults if fault.image == old.image_id]
        removed = sum(fault.kind == "missing_label" for fault in of_image)
        assert len(new.gt_boxes) == len(old.gt_boxes) - removed
        if old.image_id not in changed:
            assert np.array_equal(old.gt_boxes, new.gt_boxes)
            assert np.array_equal(old.gt_labels, new.gt_labels)
        for fault in of_image:
            if fault.box is not None:
                assert fault.box in [tuple(box) for box in new.gt_boxes.tolist()]
    counts = [sum(fault.kind == kind for fault in faults) for kind in KINDS]
    assert max(counts) - min(counts) <= 1
    for fault in faults:
        if fault.kind == "wrong_class":
            assert fault.label != fault.true_label
        if fault.kind == "bad_box":
            assert fault.box is not None
            iou = pairwise_iou(np.array([fault.box]), np.array([fault.true_box]))[0, 0]
            assert BAD_IOU[0] <= iou <= BAD_IOU[1]


def fault(kind: Any, true: Any, box: Any, label: str | None = "cat") -> Fault:
    return Fault(image="a", kind=kind, true_label="cat", true_box=true, label=label, box=box)


def row(kind: str, box: Any, found: Any, image: str = "a") -> dict[str, Any]:
    edges = ("x_min", "y_min", "x_max", "y_max")
    values: dict[str, Any] = {"kind": kind, "image_uri": f"/x/{image}.jpg"}
    values |= dict(zip(edges, box or (None,) * 4, strict=True))
    return values | dict(zip((f"found_{edge}" for edge in edges), found, strict=True))


def test_a_fault_is_found_once_and_by_its_kind() -> None:
    here, there, moved = (0, 0, 10, 10), (50, 0, 60, 10), (55, 0, 65, 10)
    faults = [
        fault("missing_label", here, None, None),
        fault("bad_box", there, moved),
        fault("wrong_class", (90, 0, 99, 9), (90, 0, 99, 9), "dog"),
    ]
    rows = [
        row("missing_label", None, (0, 0, 10, 9)),
        row("missing_label", None, (0, 1, 10, 10)),  # the same place again
        row("missing_label", None, there),  # where the moved label should be
        row("wrong_class", moved, there),  # the right label, the wrong kind
        row("wrong_class", (90, 0, 99, 9), (90, 0, 99, 9)),
        row("wrong_class", (90, 0, 99, 9), (90, 0, 99, 9), image="b"),  # another image
    ]
    judged = judge(rows, faults)
    assert [one.fault for one in judged] == [0, None, None, None, 2, None]
    assert [one.any_fault for one in judged] == [0, 0, 1, 1, 2, None]
    numbers = measure(rows, faults, 2)
    assert numbers["missing_label"]["precision_of_first"] == 0.5
    assert numbers["missing_label"]["recall"] == 1
    assert numbers["wrong_class"]["recall_of_first"] == 1
    assert numbers["bad_box"]["recall"] == 0
    assert numbers["all"]["recall"] == pytest.approx(1)
