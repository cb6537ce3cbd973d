"""Tests of --weights with a detector of torchvision: its numbers, and its tensors."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.training.detector_weights import with_detector
from pipeline.training.initial_weights import initial_model
from pipeline.training.plan import TrainPlan

MOBILE = "fasterrcnn_mobilenet_v3_large_fpn"


@lru_cache
def state_dict(num_classes: int = 91) -> dict[str, Tensor]:
    torch.manual_seed(5)
    build = getattr(torchvision.models.detection, MOBILE)
    net = build(weights=None, weights_backbone=None, num_classes=num_classes)
    return dict(net.state_dict())


def saved(folder: Path, content: Any = None, name: str = "detector.pth") -> str:
    torch.save(state_dict() if content is None else content, folder / name)
    return str(folder / name)


def flags(weights: str, **given: Any) -> TrainConfig:
    return TrainConfig(data="data", output="output", weights=weights, **given)


def plan(config: TrainConfig, *classes: str) -> TrainPlan:
    return TrainPlan.of(with_detector(config), classes or ("car", "tree"))


def test_a_detector_sets_the_numbers_that_its_tensors_need(tmp_path: Path) -> None:
    made = plan(flags(saved(tmp_path)))
    model = made.model
    assert (model.backbone, model.pooling, model.aligned) == (
        "mobilenet_v3_large_stride32",
        "align",
        False,
    )
    assert model.rpn is not None
    assert made.proposals.name == "rpn"
    assert model.rpn.extra_level
    assert model.rpn.torchvision_anchors
    assert model.rpn.sides == ((32, 64, 128, 256, 512),) * 3
    assert model.rpn.score_threshold == 0.05
    paper = plan(flags(saved(tmp_path), preset="paper")).model
    assert (paper.pooling, paper.fc_dim, paper.pool_size) == ("align", 1024, 7)


def test_names_set_the_same_numbers_without_a_download() -> None:
    coco = plan(flags("coco", backbone="mobilenet_v3_large_fpn")).model
    assert coco == plan(flags(MOBILE)).model
    small = plan(flags("fasterrcnn_mobilenet_v3_large_320_fpn")).model
    assert (small.scale, small.max_size) == (320, 640)
    other = plan(flags("fasterrcnn_mobilenet_v3_large_320_fpn", scale=480)).model
    assert (other.scale, other.max_size) == (480, 800)
    resnet = plan(flags("coco")).model
    assert (resnet.backbone, resnet.scale) == ("resnet50_fpn", 800)
    assert resnet.rpn is not None
    assert resnet.rpn.sides == ((32,), (64,), (128,), (256,), (512,))
    second = plan(flags("coco", backbone="resnet50_fpn_v2")).model
    assert second.rpn is not None
    assert (second.head_convs, second.rpn.convs) == (4, 2)


def test_a_scale_that_was_chosen_from_the_data_stays() -> None:
    small = "fasterrcnn_mobilenet_v3_large_320_fpn"
    given = flags(small, backbone="mobilenet_v3_large_fpn")  # so the backbone is not chosen
    assert with_detector(given, {"model.scale": 256}).model.scale is None
    assert with_detector(given, {"solver.warmup": 0}).model.scale == 320


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"backbone": "resnet50"}, "--backbone resnet50 is given"),
        ({"fc_dim": 64}, "--fc-dim 64: --weights .* needs fc_dim=1024"),
        ({"set": ("aligned=true",)}, "--set aligned=true: --weights .* needs aligned=False"),
        ({"set": ("rpn_ratios=1",)}, "--set rpn_ratios=1: .* needs ratios="),
        ({"set": ("rpn_convs=2",)}, "--set rpn_convs=2: .* needs convs=1"),
    ],
)
def test_a_flag_that_excludes_the_weights_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        plan(flags(MOBILE, **given))


def test_other_numbers_and_other_proposals_may_be_given() -> None:
    given = plan(flags(MOBILE, proposals="grid", set=("nms_threshold=0.4",)))
    assert given.proposals.name == "grid"
    assert given.model.rpn is None
    assert (given.model.nms_threshold, given.model.aligned) == (0.4, False)
    with pytest.raises(UserError, match="torchvision has no COCO detector on vgg16"):
        plan(flags("coco", backbone="vgg16"))


@pytest.mark.parametrize("wrap", ["plain", "model", "module"])
def test_all_parts_but_rows_of_other_classes_are_copied(
    tmp_path: Path, wrap: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = state_dict()
    contents = {
        "plain": given,
        "model": {"model": given, "epoch": 3},
        "module": {f"module.{k}": v for k, v in given.items()},
    }
    uri = saved(tmp_path, contents[wrap])
    classes = ("tree", "Car")
    with caplog.at_level("INFO"):
        model = initial_model(plan(flags(uri), *classes).model, uri, 0, classes)
    state = model.state_dict()
    for name in ("backbone.fpn.inner_blocks.0.0.weight", "rpn.head.cls_logits.weight"):
        assert torch.equal(state[name], given[name])
    predictor = "roi_heads.box_predictor"
    assert torch.equal(state["head.fc6.weight"], given["roi_heads.box_head.fc6.weight"])
    scores = given[f"{predictor}.cls_score.weight"]
    assert torch.equal(state["head.cls_score.weight"][[0, 2]], scores[[0, 3]]), "car is category 3"
    assert not torch.equal(state["head.cls_score.weight"][1], scores[1])
    boxes = given[f"{predictor}.bbox_pred.bias"]
    assert torch.equal(state["head.bbox_pred.bias"][8:], boxes[12:16])
    assert "1 of 2 classes keep their rows of the head" in caplog.text


def test_without_common_classes_the_output_layers_are_drawn_from_the_seed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = saved(tmp_path, state_dict(4))
    with caplog.at_level("INFO"):
        initial_model(plan(flags(uri)).model, uri, 0, ("car", "tree"))
    assert "drawn from the seed: head.bbox_pred.bias, head.bbox_pred.weight, head.cls_score" in (
        caplog.text
    )


def test_a_model_with_the_other_pooling_is_refused(tmp_path: Path) -> None:
    uri = saved(tmp_path)
    backbone = "mobilenet_v3_large_stride32"
    model = TrainPlan.of(flags("none", backbone=backbone), ("car",)).model
    with pytest.raises(UserError, match="was trained with aligned=False.*--model.aligned False"):
        initial_model(model, uri, 0, ("car",))


def test_a_detector_of_another_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    build = torchvision.models.detection.ssdlite320_mobilenet_v3_large
    uri = saved(tmp_path, build(weights=None, weights_backbone=None).state_dict())
    with pytest.raises(
        UserError, match="RetinaNet, FCOS and SSD .* Give one of fasterrcnn_resnet50"
    ):
        plan(flags(uri))
