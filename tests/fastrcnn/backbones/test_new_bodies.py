"""Bodies from torchvision's newer classifiers: their maps are those of torchvision's own networks."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fastrcnn.backbones import BACKBONE_SPECS, backbone_spec
from fastrcnn.config import FastRCNNConfig
from fastrcnn.model import FastRCNN, load_pretrained

CHILDREN = {
    "mobilenet_v3_large_fpn": ("mobilenet_v3_large", (3, 6, 12, 16)),
    "mobilenet_v3_large_stride32": ("mobilenet_v3_large", (13, 16)),
    "convnext_tiny": ("convnext_tiny", (1, 3, 5, 7)),
    "swin_v2_t": ("swin_v2_t", (1, 3, 5, 7)),
    "efficientnet_v2_s": ("efficientnet_v2_s", (2, 3, 5, 6)),
}


@pytest.mark.parametrize("name", CHILDREN)
@torch.inference_mode()
def test_the_published_weights_give_torchvisions_maps(name: str) -> None:
    torch.manual_seed(0)
    classifier, children = CHILDREN[name]
    published = getattr(torchvision.models, classifier)(weights=None).eval()
    for layer in published.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.002, 0.02)  # so small that an eps of 1e-5 gives other maps
            layer.weight.data.uniform_(0.05, 0.1)
    model = FastRCNN(FastRCNNConfig.modern(2, backbone=name, fc_dim=8)).eval()
    assert load_pretrained(model, published.state_dict()) == ["backbone"]
    x = torch.rand(1, 3, 96, 128)
    found: dict[str, Tensor] = model.backbone.body(x)
    for index, child in enumerate(published.features):
        x = child(x)
        if index in children:
            expected = x.permute(0, 3, 1, 2) if name.startswith("swin") else x
            ours = found[str(index)]
            assert ours.shape == expected.shape
            assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert len(found) == len(children)


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_v2_t"])
def test_each_map_is_normalised_before_the_pyramid(name: str) -> None:
    backbone = FastRCNN(FastRCNNConfig.modern(2, backbone=name, fc_dim=8)).backbone
    x = 3 + 5 * torch.randn(1, backbone.norms[0].normalized_shape[0], 4, 4)
    normal = backbone.norms[0](x)
    torch.testing.assert_close(normal.mean(dim=1), torch.zeros(1, 4, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        normal.std(dim=1, unbiased=False), torch.ones(1, 4, 4), atol=1e-3, rtol=0
    )


def test_imagenet_weights_have_a_newest_and_a_first_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def table(classifier: str) -> object:
        class Weights:
            def __class_getitem__(cls, version: str) -> type:
                asked.append(f"{classifier} {version}")
                return cls

            @staticmethod
            def get_state_dict(**_: object) -> dict[str, Tensor]:
                return {}

        return Weights

    monkeypatch.setattr(torchvision.models, "get_model_weights", table)
    for name in ("resnet50_fpn", "mobilenet_v2", "vgg16"):
        backbone_spec(name).imagenet_weights()
        backbone_spec(name).imagenet_weights(first=True)
    assert asked == [
        "resnet50 IMAGENET1K_V2",
        "resnet50 IMAGENET1K_V1",
        "mobilenet_v2 IMAGENET1K_V2",
        "mobilenet_v2 IMAGENET1K_V1",
        "vgg16 IMAGENET1K_V1",
        "vgg16 IMAGENET1K_V1",
    ]
    assert all(spec.imagenet or not spec.imagenet_v1 for spec in BACKBONE_SPECS.values())
