"""Tests of the share of the labelled objects that proposals and anchors cover."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from fastrcnn.config import FastRCNNConfig, RPNConfig
from pipeline.training.coverage import (
    anchor_coverage,
    coverage,
    log_anchor_coverage,
    log_proposal_coverage,
)
from pipeline.training.examples import Example
from tests.pipeline.training.test_label_statistics import image


def model(side: float) -> FastRCNNConfig:
    rpn = RPNConfig(sides=((side,),), ratios=(1.0,))
    return FastRCNNConfig.modern(1, backbone="tiny", scale=160, max_size=400, rpn=rpn)


def test_an_anchor_at_the_nearest_cell_covers_an_object_of_its_shape() -> None:
    # tiny has one map of stride 8. The image of 80 x 160 is enlarged to twice its size.
    at_a_cell = (20.0, 20.0, 28.0, 28.0)  # 40 to 56 in the model frame, centre at 48 = 6 cells
    between = (22.0, 22.0, 30.0, 30.0)  # centre 52: 4 px from two cells in x and y
    narrow = (20.0, 20.0, 21.0, 28.0)
    images = [image("1", [at_a_cell, narrow], (80, 160)), image("2", [between], (80, 160))]
    # between: an anchor of 16 px overlaps by 12 x 12 px: IoU 144 / 368 = .39.
    assert anchor_coverage(model(16), images) == pytest.approx(1 / 3)
    # An anchor of 20 px: overlap 14 x 14 px, IoU 196 / 460 = .43; at the cell 256 / 400 = .64.
    assert anchor_coverage(model(20), images) == pytest.approx(1 / 3)


def test_the_anchors_of_the_extra_level_count() -> None:
    # 80 x 160 becomes 160 x 320. The map of stride 16 has a cell at 48, the centre of the object of 64 px.
    rpn = RPNConfig(sides=((16.0,), (64.0,)), ratios=(1.0,), extra_level=True)
    images = [image("1", [(8.0, 8.0, 40.0, 40.0)], (80, 160))]
    assert anchor_coverage(replace(model(16), rpn=rpn), images) == 1
    assert anchor_coverage(model(16), images) == 0


def test_small_objects_get_a_warning_before_training(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    images = [image("1", [(16, 16, 32, 32)], (80, 160))]
    log_anchor_coverage(model(32), images)
    assert "cover 100.0% of the labelled boxes at IoU 0.5" in caplog.text
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    log_anchor_coverage(model(200), images)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("only 0% of the labelled boxes")
    assert "--scale" in warning


def test_labels_without_sizes_have_no_known_coverage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert anchor_coverage(model(32), [image("1", [(0, 0, 9, 9)], None)]) is None
    log_anchor_coverage(model(32), [])
    assert "not known" in caplog.text


def test_given_proposals_cover_what_they_overlap_by_half(caplog: pytest.LogCaptureFixture) -> None:
    boxes = [(0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)]
    near = np.array([[0, 0, 10, 5]], np.float32)  # IoU .5 with the first
    examples = [Example(image("1", boxes), near), Example(image("2", []), near)]
    assert coverage(examples, [near, near]) == 0.5
    assert coverage(examples[1:], [near]) is None
    log_proposal_coverage(examples)
    assert "only 50% of the labelled boxes" in caplog.text
    assert "--proposals rpn" in caplog.text
