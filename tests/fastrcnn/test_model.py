"""The network's shapes, initial weights and loaded weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from fastrcnn.backbones.backbone import Backbone
from fastrcnn.backbones.convolution import FrozenNorm
from fastrcnn.config import BACKBONES, FastRCNNConfig
from fastrcnn.model import FastRCNN, load_pretrained

ROIS = torch.tensor([[0.0, 0, 0, 50, 60], [0.0, 20, 10, 90, 100], [0.0, 5, 5, 9, 9]])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("preset", [FastRCNNConfig.paper, FastRCNNConfig.modern])
def test_every_backbone_gives_scores_and_deltas_for_each_roi(preset: object, backbone: str) -> None:
    model = FastRCNN(preset(3, backbone=backbone, fc_dim=32)).eval()  # type: ignore[operator]
    with torch.no_grad():
        class_logits, box_deltas = model(torch.randn(1, 3, 128, 128), ROIS)
        nothing = model(torch.randn(1, 3, 128, 128), torch.zeros(0, 5))
    assert class_logits.shape == (3, 4)
    assert box_deltas.shape == (3, 16)
    assert [t.shape for t in nothing] == [(0, 4), (0, 16)]
    assert bool(torch.isfinite(class_logits).all())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_map_has_the_size_that_its_stride_gives(backbone: str) -> None:
    network = Backbone(backbone).eval()
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, 256, 320))
    assert len(maps) == len(network.strides)
    for features, stride in zip(maps, network.strides, strict=True):
        assert features.shape[1] == network.out_channels
        assert abs(features.shape[2] - 256 / stride) <= 1
        assert abs(features.shape[3] - 320 / stride) <= 1


@pytest.mark.parametrize("training", [True, False])
def test_a_call_of_the_model_runs_features_then_classify(training: bool) -> None:
    torch.manual_seed(0)
    model = FastRCNN(FastRCNNConfig.modern(3, backbone="resnet50_fpn", fc_dim=16)).train(training)
    images = torch.randn(1, 3, 128, 128)
    with torch.set_grad_enabled(training):
        maps = model.features(images)
        parts, whole = model.classify(maps, ROIS), model(images, ROIS)
    assert len(maps) == len(model.backbone.strides)
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))
    assert model.device == images.device


def test_the_sibling_layers_start_as_the_papers_gaussians() -> None:
    torch.manual_seed(0)
    head = FastRCNN(FastRCNNConfig.paper(20, backbone="tiny", fc_dim=1024)).head
    assert head.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert head.cls_score.bias.abs().sum() == 0
    assert head.bbox_pred.bias.abs().sum() == 0


def test_the_papers_network_l_has_its_parameters() -> None:
    with torch.device("meta"):
        model = FastRCNN(FastRCNNConfig.paper(20))
    assert model.head.fc6.weight.numel() == 102_760_448  # facts: SVD counts start from these
    assert model.head.fc7.weight.numel() == 16_777_216
    assert (model.config.pool_size, model.backbone.strides) == (7, (16,))
    frozen = {n for n, p in model.backbone.body.named_parameters() if not p.requires_grad}
    assert frozen == {f"{i}.{part}" for i in (0, 2, 5, 7) for part in ("weight", "bias")}


@pytest.mark.parametrize("preset", [FastRCNNConfig.paper, FastRCNNConfig.modern])
def test_the_papers_network_m_is_as_wide_as_its_name_says(preset: object) -> None:
    with torch.device("meta"):
        model = FastRCNN(preset(20, backbone="vgg_m", frozen_stages=1))  # type: ignore[operator]
        narrower = FastRCNN(preset(20, backbone="vgg_m", fc_dim=512))  # type: ignore[operator]
    shapes = [tuple(layer.weight.shape) for layer in (model.head.fc6, model.head.fc7)]
    assert shapes == [(4096, 512 * 6 * 6), (1024, 4096)]  # of VGG_CNN_M_1024.caffemodel
    assert model.head.cls_score.weight.shape == (21, 1024)
    assert model.head.bbox_pred.weight.shape == (84, 1024)
    frozen = {n for n, p in model.backbone.body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1.weight", "conv1.bias"}
    assert narrower.head.fc7.weight.shape == (512, 512)


def test_vgg16_starts_from_the_layers_of_the_classifier() -> None:
    torch.manual_seed(0)
    donor = torchvision.models.alexnet(weights=None).state_dict()
    model = FastRCNN(FastRCNNConfig.paper(3, backbone="caffenet"))
    assert load_pretrained(model, donor) == ["backbone", "fc6", "fc7"]
    assert torch.equal(model.head.fc6.weight, donor["classifier.1.weight"])
    assert torch.equal(model.head.fc7.bias, donor["classifier.4.bias"])
    assert torch.equal(model.backbone.body[0].weight, donor["features.0.weight"])  # type: ignore[index]


def test_layers_of_another_shape_keep_their_initial_weights_and_are_not_reported() -> None:
    donor = torchvision.models.alexnet(weights=None).state_dict()
    model = FastRCNN(FastRCNNConfig.paper(3, backbone="caffenet", fc_dim=64))
    assert load_pretrained(model, donor) == ["backbone"]


def test_a_classifier_without_hidden_layers_is_loaded_into_the_backbone_only() -> None:
    donor = torchvision.models.alexnet(weights=None).state_dict()
    features = {k: v for k, v in donor.items() if k.startswith("features.")}
    model = FastRCNN(FastRCNNConfig.paper(3, backbone="caffenet", fc_dim=16))
    assert load_pretrained(model, features) == ["backbone"]


def test_weights_of_another_network_are_refused() -> None:
    donor = torchvision.models.squeezenet1_1(weights=None).state_dict()
    with pytest.raises(ValueError, match="not weights of mobilenet_v2"):
        load_pretrained(FastRCNN(FastRCNNConfig.modern(3, backbone="mobilenet_v2")), donor)


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_0"])
def test_published_weights_load_completely(shared_data: Path, name: str) -> None:
    weights = torch.load(shared_data.parent / "weights" / f"{name}.pth", weights_only=True)
    model = FastRCNN(FastRCNNConfig.modern(3, backbone=name, fc_dim=16))
    assert load_pretrained(model, weights) == ["backbone"]
    body = model.backbone.body.state_dict()
    first = "0.0.weight" if name == "mobilenet_v2" else "0.weight"
    assert torch.equal(body[first], weights[f"features.{first}"])


def test_frozen_norms_do_not_move_in_training() -> None:
    model = FastRCNN(FastRCNNConfig.modern(3, backbone="mobilenet_v2", fc_dim=16)).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model(torch.randn(1, 3, 64, 64), ROIS[:1])
    assert before
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_classes": 0}, "num_classes=0: expected an integer from 1 to"),
        ({"backbone": "vgg17"}, "vgg17.*expected one of caffenet"),
        ({"bg_iou": (0.5, 0.1)}, "low < high"),
        ({"scale": 2000}, "scale"),
        ({"fg_fraction": 0.0}, "fg_fraction"),
    ],
)
def test_impossible_numbers_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FastRCNNConfig(**({"num_classes": 3} | changes))  # type: ignore[arg-type]


def test_the_frozen_norm_equals_torchvisions() -> None:
    torch.manual_seed(0)
    ours, theirs = FrozenNorm(6), torchvision.ops.FrozenBatchNorm2d(6)
    for buffer in ours.buffers():
        buffer.uniform_(0.5, 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 5, 7).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(2, 6, 5, 7)
    (ours(x) * weight).sum().backward()
    (theirs(y) * weight).sum().backward()
    torch.testing.assert_close(ours(x), theirs(y))
    torch.testing.assert_close(x.grad, y.grad)
    last = ours(x.detach().contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
