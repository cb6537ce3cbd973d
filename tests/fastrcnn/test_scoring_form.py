from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from fastrcnn.backbones.convolution import ONEDNN
from fastrcnn.config import BACKBONES, FastRCNNConfig, RPNConfig
from fastrcnn.detection import detect, propose_learned
from fastrcnn.model import FastRCNN
from fastrcnn.scoring_form import PackedLinear, fold_norms, scoring_form
from fastrcnn.svd import compress

ROIS = torch.tensor([[0, 4, 4, 60, 50], [0, 20, 8, 90, 90], [0, 0, 0, 16, 16]], dtype=torch.float32)


def trained(backbone: str, **changes: object) -> FastRCNN:
    """Make a model whose norm layers are not the identity."""
    torch.manual_seed(0)
    config = FastRCNNConfig.modern(3, backbone=backbone, fc_dim=32, **changes)
    model = FastRCNN(config).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.normal_(1, 0.1)
            layer.bias.data.normal_(0, 0.1)
    return model


@pytest.mark.parametrize("frozen_norm", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_the_outputs_equal_those_of_the_model(backbone: str, frozen_norm: bool) -> None:
    model = trained(backbone, frozen_norm=frozen_norm)
    images = torch.rand(1, 3, 96, 96)
    expected = model(images, ROIS)
    assert scoring_form(model, bfloat16=False) is model
    for own, wanted in zip(model(images, ROIS), expected, strict=True):
        assert (own - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50", "resnet50_fpn"])
def test_no_norm_is_left(backbone: str) -> None:
    model = trained(backbone)
    fold_norms(model.backbone)
    left = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    assert not left


@torch.inference_mode()
def test_detections_are_the_same_and_without_proposals_there_are_none() -> None:
    model = trained("mobilenet_v2", scale=96)
    image = torch.randint(0, 255, (80, 100, 3), dtype=torch.uint8)
    proposals = [torch.tensor([[5.0, 5, 60, 70], [20, 10, 90, 60]]), torch.zeros(0, 4)]
    expected = detect(model, [image, image], proposals)
    found = detect(scoring_form(copy.deepcopy(model), bfloat16=False), [image, image], proposals)
    torch.testing.assert_close(found[0].boxes, expected[0].boxes, rtol=0, atol=1e-2)
    torch.testing.assert_close(found[0].scores, expected[0].scores, rtol=0, atol=1e-4)
    assert len(expected[0].boxes) > 0
    assert found[1].boxes.shape == (0, 4)


@pytest.mark.skipif(not ONEDNN, reason="no oneDNN here")
@torch.inference_mode()
def test_the_thin_layers_of_a_truncated_head_are_packed_too() -> None:
    model = compress(trained("tiny"), 8, 4)
    pooled = torch.rand(5, 128, 7, 7)
    expected = model.head(pooled)
    scoring_form(model, bfloat16=False)
    packed = [m for m in model.head.modules() if isinstance(m, PackedLinear)]
    assert len(packed) == 4
    for own, wanted in zip(model.head(pooled), expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.inference_mode()
def test_bfloat16_changes_outputs_by_rounding_only_and_keeps_their_type(backbone: str) -> None:
    model = trained(backbone)
    images = torch.rand(1, 3, 96, 96)
    expected = model(images, ROIS)
    scoring_form(model, bfloat16=True)
    for own, wanted in zip(model(images, ROIS), expected, strict=True):
        assert own.dtype == torch.float32
        assert 0 < (own - wanted).abs().max() <= 0.05 * wanted.abs().max()
    assert {f.dtype for f in model.backbone(images)} == {torch.bfloat16}


@torch.inference_mode()
def test_a_truncated_head_and_an_rpn_are_bfloat16_too_and_boxes_stay_float32() -> None:
    rpn = RPNConfig(max_proposals_test=20)
    model = compress(trained("mobilenet_v2", scale=96, rpn=rpn), 16, 16)
    images, size = torch.rand(1, 3, 96, 96), (96, 96)
    (expected,) = model.rpn(model.backbone(images), [size])
    scoring_form(model, bfloat16=True)
    assert {p.dtype for p in model.rpn.head.parameters()} == {torch.bfloat16}
    (found,) = model.rpn(model.backbone(images), [size])
    for own, wanted in ((found.objectness, expected.objectness), (found.deltas, expected.deltas)):
        assert own.dtype == torch.float32
        assert 0 < (own - wanted).abs().max() <= 0.05 * wanted.abs().max()
    image = torch.randint(0, 255, (80, 100, 3), dtype=torch.uint8)
    (proposed,), (detected,) = propose_learned(model, [image]), detect(model, [image])
    assert proposed.boxes.dtype == detected.boxes.dtype == detected.scores.dtype == torch.float32


def test_a_model_is_bfloat16_if_the_device_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for able, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("fastrcnn.scoring_form.multiplies_bfloat16", lambda _, able=able: able)
        model = scoring_form(trained("tiny"))
        assert {p.dtype for p in model.backbone.parameters()} == {dtype}
