"""Tests of anchors and grids fitted to labelled images, and of settings that exclude an RPN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fastrcnn.config import RPNConfig
from pipeline import evaluate, export_proposals, score, train
from pipeline.annotations import LabelledImage
from pipeline.config import EvaluateConfig, ScoreConfig, TrainConfig
from pipeline.draw_scenes import draw_split
from pipeline.errors import UserError
from pipeline.export_proposals import ExportProposalsConfig
from pipeline.schema import SCORED
from pipeline.training.learned_proposals import DELTA_STD
from pipeline.training.plan import TrainPlan
from tests.pipeline.training_runs import config

CLASSES = ("thing",)


def plan(**changes: Any) -> TrainPlan:
    flags: dict[str, Any] = {"backbone": "tiny", "proposals": "rpn", "scale": 200}
    return TrainPlan.of(TrainConfig(data="data", output="out", **(flags | changes)), CLASSES)


def image(
    boxes: list[list[float]], size: tuple[int, int] | None, *, crowd: bool = False
) -> LabelledImage:
    count = len(boxes)
    return LabelledImage(
        image_uri="a.png",
        annotation_uri="a.xml",
        gt_boxes=np.array(boxes, np.float32).reshape(-1, 4),
        gt_labels=np.ones(count, np.int64),
        difficult=np.zeros(count, np.bool_),
        crowd=np.full(count, crowd),
        image_id="a",
        size=size,
    )


IMAGES = [
    image([[0, 0, 10, 10]], (100, 150)),  # 20 px in the model frame
    image([[0, 0, 80, 20]], (400, 300)),  # side 40, 26.7 in the model frame; height / width 1 / 4
    image([[0, 0, 90, 90]], (100, 100), crowd=True),
    image([[0, 0, 90, 90]], None),
    image([], (100, 100)),
]


def test_anchors_are_fitted_in_the_model_frame() -> None:
    rpn = plan().fitted(IMAGES).model.rpn
    assert rpn is not None
    assert {20.0, 26.67} <= set(rpn.sides[0])
    assert len(rpn.sides[0]) == 5
    assert {0.25, 1.0} <= set(rpn.ratios)
    two_maps = plan(backbone="mobilenet_v2").fitted(IMAGES).model.rpn
    assert two_maps is not None
    assert [len(sides) for sides in two_maps.sides] == [2, 2, 2]


def test_anchors_are_fitted_for_the_extra_level_too() -> None:
    rpn = plan(set=("rpn_extra_level=true",)).fitted(IMAGES).model.rpn
    assert rpn is not None
    assert [len(sides) for sides in rpn.sides] == [2, 2]


def test_anchors_given_by_flags_are_not_fitted() -> None:
    given = plan(set=("rpn_sides=24", "rpn_nms=0.8")).fitted(IMAGES).model.rpn
    assert given is not None
    assert (given.sides, given.nms) == (((24.0,),), 0.8)
    assert {0.25, 1.0} <= set(given.ratios)  # not given, so fitted


def test_a_grid_is_fitted_unless_its_mode_is_unfitted() -> None:
    fitted = plan(proposals="grid").fitted(IMAGES)
    assert fitted.proposals.shapes == ((0.0667, 0.2667), (0.1, 0.1))
    assert fitted.model.rpn is None
    assert plan(proposals="grid", proposal_mode="unfitted").fitted(IMAGES).proposals.shapes is None
    assert plan(proposals="selective_search").fitted(IMAGES) == plan(proposals="selective_search")


def test_without_image_sizes_nothing_is_fitted_and_a_warning_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert plan().fitted(IMAGES[3:]) == plan()
    assert plan(proposals="grid").fitted(IMAGES[2:]) == plan(proposals="grid")
    assert "standard anchors, not fitted ones" in caplog.text
    assert "an even grid, not a fitted one" in caplog.text


def test_both_presets_accept_an_rpn_with_fixed_deviations_and_the_given_max_proposals() -> None:
    for preset in ("paper", "modern"):
        model = plan(preset=preset, max_proposals=300).model
        assert model.delta_std == DELTA_STD
        assert model.rpn == RPNConfig(max_proposals_train=300, max_proposals_test=300)
    assert plan().model.rpn == RPNConfig()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"set": ("pyramid=100,200",)}, "one scale"),
        ({"set": ("trained=bbox_pred",)}, "second stage"),
        ({"set": ("train_nms=0.7",)}, r"--rpn\.nms"),
        ({"rois_per_image": 1}, "RoI-centric"),
        ({"proposal_mode": "small"}, "rpn has no such mode"),
        ({"set": ("rpn_nms=2",)}, "--set rpn_nms=2: expected a number above 0, up to 1"),
        (
            {"proposals": "grid", "set": ("rpn_nms=0.5",)},
            "--set rpn_nms=0.5: needs an RPN, but the proposals are grid",
        ),
    ],
)
def test_settings_that_exclude_an_rpn_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        plan(**changes)


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_detector_with_an_rpn_is_trained_scored_and_evaluated(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    draw_split(data, "train", range(12), seed=0, size=(180, 220))
    draw_split(data, "test", range(12, 16), seed=0, size=(180, 220))
    flags = config(str(data), str(tmp_path / "model"), proposals="rpn", max_proposals=60)
    result = train.run(replace(flags, iterations=10, learning_rate=0.01, val_split="test"))
    assert result is not None
    scoring = ScoreConfig(
        images=str(data / "JPEGImages"),
        checkpoint=result.checkpoint,
        output=str(tmp_path / "out"),
        precision="float32",  # validation uses float32 too
    )
    assert score.run(replace(scoring, dry_run=True)).complete is False
    summary = score.run(scoring)
    assert summary.statuses == {"ok": 16}
    (shard,) = (tmp_path / "out" / "scored").rglob("*.parquet")
    table = pq.read_table(shard)
    assert table.schema.remove_metadata().equals(SCORED)
    assert 0 < max(table["num_proposals"].to_pylist()) <= 60
    measured = evaluate.run(EvaluateConfig(scored=str(tmp_path / "out"), data=str(data)))
    assert measured.voc07.mean_ap == pytest.approx(result.val_map, abs=1e-6)

    rows = str(tmp_path / "table")
    exported = ExportProposalsConfig(
        checkpoint=result.checkpoint, images=str(data / "JPEGImages"), output=rows
    )
    assert export_proposals.run(exported) == 16
    other = replace(flags, output=str(tmp_path / "other"), proposals=rows, iterations=2)
    assert train.run(replace(other, val_split="test")) is not None
    again = replace(scoring, checkpoint=str(tmp_path / "other"), output=str(tmp_path / "again"))
    assert score.run(replace(again, proposals=rows)).statuses == {"ok": 16}
