"""Tiles of a training: flags, the side for --tile auto, and anchors, by hand-computed sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastrcnn.config import FastRCNNConfig, RPNConfig
from pipeline import train
from pipeline.annotations import LabelledImage
from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.training.chosen import Recipe, log_tile_advice
from pipeline.training.coverage import anchor_coverage
from pipeline.training.label_statistics import LabelStatistics
from pipeline.training.learned_proposals import fit_anchors_to
from pipeline.training.plan import TrainPlan
from pipeline.training.recipe import choose
from pipeline.training.same_run import check_same_run, claim_output
from pipeline.training.situation import Device, Situation
from pipeline.training.tile_choice import choose_tile

LABELS = LabelStatistics(
    num_images=100,
    num_objects=500,
    num_classes=2,
    side_p10=33 / 3000,
    side_p50=66 / 3000,
    short_side=3000,
    long_side=4000,
    objects_p75=5,
    most_objects=9,
    neighbours=0.0,
    shared_boxes=0.0,
)


def test_tiles_are_as_large_as_objects_allow() -> None:
    # 24 px for 33 px and 48 px for 66 px is a factor of .727: 480 / .727 = 660, and 640 is a multiple of 32.
    choice = choose_tile(LABELS, 480, 800, (24, 48))
    assert choice.side == 640
    assert choice.sizes == (
        "median box 11 px in the model frame at --scale 480; with --tile 640: 50 px (48 tiles an image)"
    )
    assert "5 px (smallest tenth) and 11 px (median)" in choice.reason


def test_tiles_are_never_enlarged() -> None:
    tiny = replace(LABELS, side_p10=3 / 3000, side_p50=8 / 3000)
    assert choose_tile(tiny, 470, 800, (24, 48)).side == 480


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"side_p10": 0.06, "side_p50": 0.2}, "objects are large enough"),  # 29 and 96 px
        (
            {"short_side": 600, "long_side": 800},
            "only 1.2 times as large",
        ),  # 480 / 480 over 480 / 600
        ({"side_p10": None, "side_p50": None}, "the size of no image is known"),
    ],
)
def test_there_are_no_tiles_where_nothing_is_gained(changes: dict[str, float], reason: str) -> None:
    choice = choose_tile(replace(LABELS, **changes), 480, 800, (24, 48))  # type: ignore[arg-type]
    assert choice.side is None
    assert reason in choice.reason


def test_tiles_of_a_long_image_are_as_high_as_the_image() -> None:
    # 300 x 3000 px: the factor is 800 / 3000 = .267. A tile of 480 x 300 px has the factor
    # 480 / 300 = 1.6, and not 480 / 480; one of 512 x 300 px has 800 / 512 = 1.56.
    long = replace(LABELS, short_side=300, long_side=3000, side_p10=15 / 300, side_p50=30 / 300)
    choice = choose_tile(long, 480, 800, (24, 48))
    assert choice.side == 480  # 24 / 15 and 48 / 30 are 1.6
    assert "; with --tile 480: 48 px (8 tiles an image)" in choice.sizes
    larger = replace(long, side_p10=20 / 300, side_p50=40 / 300)  # 1.2 is enough: 800 / 640 = 1.25
    assert choose_tile(larger, 480, 800, (24, 48)).side == 640


def test_automatic_tiles_are_one_of_the_choices_of_a_recipe() -> None:
    at = Situation(labels=LABELS, device=Device(kind="cpu", where="here"), auto_tile=True)
    choices = {choice.name: choice for choice in choose(at)}
    # The scale is the preset's, because objects this small would need a larger one.
    scale = choices["model.scale"].value
    assert choices["model.tile"].value == int(scale / (48 / 66)) // 32 * 32
    assert choices["model.tile"].flag == f"--tile {choices['model.tile'].value}"
    at = replace(at, labels=replace(LABELS, side_p10=0.3, side_p50=0.4))
    none = {choice.name: choice for choice in choose(at)}["model.tile"]
    assert (none.value, none.flag) == (None, "--tile 0")
    assert "objects are large enough" in none.reason
    assert "model.tile" not in {choice.name for choice in choose(replace(at, auto_tile=False))}


def test_the_scale_is_chosen_for_tiles_instead_of_images() -> None:
    # In tiles of 640 px the objects have 5.2% and 10.3% of the side, and 24 px need a scale of 465.
    given = {"model.tile": 640}
    at = Situation(labels=LABELS, device=Device(kind="cpu", where="here"), given=given)
    scale = {choice.name: choice for choice in choose(at)}["model.scale"]
    assert scale.value == 480
    assert "of the shorter side of a tile" in scale.reason


def test_anchors_are_fitted_to_boxes_in_tiles_and_to_larger_ones_in_whole_images() -> None:
    model = FastRCNNConfig.modern(
        1, backbone="tiny", scale=100, max_size=200, rpn=RPNConfig(), tile=100, whole_share=0.2
    )
    images = [labelled([[0, 0, 20, 20], [0, 0, 400, 400]], (500, 1000))]
    # The factor of the whole image is .2, that of a tile 1. The small box has 20 px in a tile, and its 4 px
    # in the whole image do not count. The large one fits in no tile, and has 80 px.
    fitted = fit_anchors_to(model, images)
    assert fitted.rpn is not None
    sides = [round(side) for level in fitted.rpn.sides for side in level]
    assert {20, 80} <= set(sides)
    assert min(sides) >= 10
    whole_only = fit_anchors_to(replace(model, whole_share=1.0), images)
    assert whole_only.rpn is not None
    assert {4, 80} <= {round(side) for level in whole_only.rpn.sides for side in level}
    never_whole = fit_anchors_to(replace(model, whole_share=0.0), images)
    assert never_whole.rpn is not None
    assert 80 not in [round(side) for level in never_whole.rpn.sides for side in level]
    untiled = fit_anchors_to(replace(model, tile=None), images)
    assert untiled.rpn is not None
    assert 20 not in [round(side) for level in untiled.rpn.sides for side in level]


def test_objects_are_covered_by_anchors_of_tiles_or_of_whole_images() -> None:
    rpn = RPNConfig(sides=((20.0,),), ratios=(1.0,))
    model = FastRCNNConfig.modern(1, backbone="tiny", scale=100, max_size=200, rpn=rpn)
    # 100 px have 20 px in the whole image, and 20 px have 20 px in a tile.
    images = [labelled([[100, 100, 200, 200], [304, 304, 324, 324]], (500, 1000))]
    assert anchor_coverage(model, images) == 0.5
    assert anchor_coverage(replace(model, tile=100), images) == 1.0


def labelled(boxes: list[list[float]], size: tuple[int, int]) -> LabelledImage:
    return LabelledImage(
        image_uri="a.png",
        annotation_uri="a.xml",
        gt_boxes=np.array(boxes, np.float32),
        gt_labels=np.ones(len(boxes), np.int64),
        difficult=np.zeros(len(boxes), np.bool_),
        crowd=np.zeros(len(boxes), np.bool_),
        image_id="a",
        size=size,
    )


def train_config(**changes: Any) -> TrainConfig:
    return TrainConfig(data="data", output="out", **changes)


def test_tiles_of_a_training_are_numbers_of_its_model() -> None:
    flags = train_config(
        preset="modern", backbone="tiny", tile=640, tile_overlap=0.3, whole_share=0.1
    )
    model = TrainPlan.of(flags, ("thing",)).model
    assert (model.tile, model.tile_overlap, model.whole_share) == (640, 0.3, 0.1)
    assert TrainPlan.of(replace(flags, tile=None, set=("tile=320",)), ("thing",)).model.tile == 320
    off = replace(flags, tile=0, tile_overlap=None, whole_share=None)
    assert TrainPlan.of(off, ("thing",)).model.tile is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tile": 5}, "--tile 5"),
        ({"tile": "auto", "preset": "modern"}, "a preset chooses nothing"),
        ({"tile_overlap": 0.1}, "has an effect with tiles only"),
        ({"whole_share": 0.1, "tile": 0}, "has an effect with tiles only"),
        ({"tile": "auto", "set": ("pyramid=400,500",)}, "exclude each other"),
        ({"tile": 640, "preset": "modern", "set": ("pyramid=400,500",)}, "only one of them"),
        ({"tile": 640, "whole_share": 1.5}, "--whole-share 1.5"),
    ],
)
def test_impossible_tiles_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        train_config(**flags)
    assert message in str(error.value)


def test_automatic_tiles_and_none_are_different_runs(tmp_path: Path) -> None:
    auto = train_config(backbone="tiny", tile="auto")
    auto = replace(auto, output=str(tmp_path))
    claim_output(auto, train.FREE_FLAGS)
    check_same_run(auto, train.FREE_FLAGS)
    for tile in (None, 0, 640):
        with pytest.raises(UserError, match="tile was 'auto', is not given"):
            check_same_run(replace(auto, tile=tile), train.FREE_FLAGS)


def test_a_dry_run_advises_tiles_only_where_nobody_asked_for_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    model = FastRCNNConfig.modern(1, backbone="tiny", scale=480, max_size=800)
    recipe = Recipe(flags=train_config(backbone="tiny"))
    log_tile_advice(recipe, model, LABELS)
    assert (
        "median box 11 px in the model frame at --scale 480; with --tile 640: 50 px" in caplog.text
    )
    caplog.clear()
    log_tile_advice(Recipe(flags=train_config(tile="auto")), model, LABELS)
    log_tile_advice(recipe, replace(model, tile=100), LABELS)
    log_tile_advice(recipe, model, replace(LABELS, side_p10=0.3, side_p50=0.4))
    assert not caplog.text
