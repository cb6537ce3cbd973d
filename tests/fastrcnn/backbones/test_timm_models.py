"""Backbones of the library timm. The tests build networks with random weights and download nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fastrcnn.backbones import backbone_spec, network_name
from fastrcnn.backbones.backbone import Backbone
from fastrcnn.checkpoint import load_checkpoint, save_checkpoint
from fastrcnn.config import FastRCNNConfig, FieldError, ProposalConfig
from fastrcnn.detection import detect
from fastrcnn.loss import Target, training_loss
from fastrcnn.model import FastRCNN, load_pretrained
from fastrcnn.scoring_form import scoring_form

timm = pytest.importorskip("timm", reason="needs the extra timm")

NAMES = ("resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "efficientnet_b0")


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_the_published_names_load_and_give_timms_maps(name: str) -> None:
    torch.manual_seed(0)
    published = timm.create_model(name, pretrained=False)
    for layer in published.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    model = FastRCNN(FastRCNNConfig.modern(2, backbone=f"timm/{name}", fc_dim=8)).eval()
    assert load_pretrained(model, published.state_dict()) == ["backbone"]
    images = torch.rand(1, 3, 224, 224)
    indices = [
        i
        for i, info in enumerate(timm.create_model(name, features_only=True).feature_info)
        if info["reduction"] >= 4
    ]
    net = timm.create_model(name, features_only=True, out_indices=indices).eval()
    body = model.backbone.body
    own_names = {k for k in net.state_dict() if not k.endswith("num_batches_tracked")}
    assert own_names >= {k for k in body.state_dict() if not k.endswith("num_batches_tracked")}
    net.load_state_dict(body.state_dict(), strict=False)
    at_end = name.startswith("swin")
    for ours, theirs in zip(body(images).values(), net(images), strict=True):
        theirs = theirs.permute(0, 3, 1, 2) if at_end else theirs
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert [m.shape[1] for m in body(images).values()] == list(
        backbone_spec(f"timm/{name}").channels
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_network_trains_a_step_scores_and_is_saved(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    numbers = {"backbone": f"timm/{name}@abc123", "fc_dim": 8, "scale": 64, "max_size": 96}
    model = FastRCNN(FastRCNNConfig.modern(1, score_threshold=0.0, **numbers)).train()
    image = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 5, 40, 50], [20, 10, 70, 55]])
    target = Target(boxes, gt_boxes=boxes[:1], gt_labels=torch.tensor([1]))
    training_loss(model, [image], [target], seeds=[0]).total.backward()
    trained = {n for n, p in model.backbone.body.named_parameters() if p.grad is not None}
    assert trained
    save_checkpoint(tmp_path, model, classes=["a"], proposals=ProposalConfig(), training={})
    loaded = load_checkpoint(tmp_path)
    assert loaded.config["model"]["backbone"] == f"timm/{name}@abc123"
    (expected,) = detect(loaded.model, [image], [boxes])
    (found,) = detect(scoring_form(loaded.model, bfloat16=False), [image], [boxes])
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-2)
    assert len(found.boxes) > 0


def test_frozen_norms_keep_their_statistics_and_their_activation() -> None:
    body = Backbone("timm/efficientnet_b0").body.train()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in body.modules())
    assert any(
        isinstance(layer, nn.BatchNorm2d)
        for layer in Backbone("timm/efficientnet_b0", frozen_norm=False).modules()
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "vit_tiny_patch16_224",
            "growing strides .* have \\(16, 16, 16\\).*plain vision transformer",
        ),
        ("no_such_network", "which has no no_such_network"),
        ("inception_v3", r"inception_v3 has \(0.5, 0.5, 0.5\)"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(name: str, reason: str) -> None:
    with pytest.raises(FieldError, match=reason):
        FastRCNNConfig.modern(1, backbone=f"timm/{name}")


def test_weights_without_a_revision_are_not_downloaded() -> None:
    with pytest.raises(ValueError, match="has no revision: give timm/resnet18@COMMIT"):
        backbone_spec("timm/resnet18").imagenet_weights()
    assert network_name("timm/resnet18@abc") == "timm/resnet18"
