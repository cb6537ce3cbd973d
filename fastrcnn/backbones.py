"""Feature extractors: torchvision's classifiers up to their last convolutional map, and their weights.

N images, C channels. A backbone gives one map a pyramid level, finest first, and says its strides.
Its `body` keeps torchvision's module names, so a classifier's state_dict loads by key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d

NormLayer = Callable[..., nn.Module]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spec:
    """How to cut one classifier.

    build: norm layer -> body. stages: name of the first child of each stage. prefix: of the body's keys in
    torchvision's state_dict. fc: the classifier's layers that become fc6 and fc7.
    """

    build: Callable[[NormLayer], nn.Module]
    strides: tuple[int, ...]
    channels: int
    stages: tuple[str, ...]
    prefix: str = "features."
    fc: tuple[str, str] | None = None
    pyramid: tuple[int, ...] = ()
    memory_format: torch.memory_format = torch.contiguous_format
    """Of a training step on 2 CPU cores: channels last, with `FrozenNorm`, takes a half to a quarter of the
    time for mobilenet_v2 and resnet50, as much for tiny, and two to three times as much for squeezenet."""


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's, in one pass over the map instead of two, and half the maps kept for the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


class Backbone(nn.Module):
    """Images (N, 3, H, W), normalised, to a list of maps (N, C, H / stride, W / stride), finest first."""

    def __init__(self, name: str, *, frozen_norm: bool = True) -> None:
        super().__init__()
        spec = _SPECS[name]
        self.name = name
        self.strides = spec.strides
        self.out_channels = spec.channels
        self.body = spec.build(FrozenNorm if frozen_norm else nn.BatchNorm2d)
        self.fpn = (
            FeaturePyramidNetwork(list(spec.pyramid), spec.channels) if spec.pyramid else None
        )
        self.memory_format = spec.memory_format
        self.to(memory_format=spec.memory_format)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body(images.contiguous(memory_format=self.memory_format))
        if self.fpn is not None:
            maps = self.fpn(maps)
        return list(maps.values()) if isinstance(maps, dict) else [maps]

    def freeze(self, stages: int) -> None:
        """Stop the gradient into the first `stages` stages (paper, section 4.5). 0 freezes nothing."""
        starts = _SPECS[self.name].stages
        if not 0 <= stages <= len(starts):
            raise ValueError(f"frozen_stages={stages}: {self.name} has {len(starts)} stages")
        names = [name for name, _ in self.body.named_children()]
        end = names.index(starts[stages]) if stages < len(starts) else len(names)
        for name in names[:end]:
            self.body.get_submodule(name).requires_grad_(False)


def body_weights(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a torchvision classifier's state_dict that the body holds, under the body's keys."""
    prefix = _SPECS[name].prefix
    return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}


def fc_weights(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's two hidden layers as `fc6.*` and `fc7.*`; empty where it has none."""
    layers = _SPECS[name].fc or ()
    return {
        f"{fc}.{part}": state_dict[f"{layer}.{part}"]
        for fc, layer in zip(("fc6", "fc7"), layers, strict=False)
        for part in ("weight", "bias")
    }


def imagenet_weights(name: str) -> Mapping[str, Tensor]:
    """torchvision's ImageNet state_dict for a backbone; downloads it once into torch's hub folder.

    Raises:
        ValueError: nothing is published for this backbone.
        OSError: the download failed.
    """
    if name == "tiny":
        raise ValueError("backbone tiny has no ImageNet weights; train it with weights 'none'")
    arch = {"caffenet": "alexnet", "resnet50_fpn": "resnet50"}.get(name, name)
    weights = torchvision.models.get_model_weights(arch)
    return cast(
        Mapping[str, Tensor],
        weights["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True),
    )


def _alexnet(norm: NormLayer) -> nn.Module:
    net = torchvision.models.alexnet(weights=None)
    return cast(nn.Module, net.features[:-1])  # without pool5


def _vgg16(norm: NormLayer) -> nn.Module:
    net = torchvision.models.vgg16(weights=None)
    return cast(nn.Module, net.features[:-1])  # without pool5


def _resnet50_dilated(norm: NormLayer) -> nn.Module:
    # conv5 at stride 16 (dilated), as detectron2's R50-DC5: one map that fc6 and fc7 can pool from.
    net = torchvision.models.resnet50(
        weights=None, norm_layer=norm, replace_stride_with_dilation=[False, False, True]
    )
    return _last_map(net, {"layer4": "0"})


def _resnet50_levels(norm: NormLayer) -> nn.Module:
    net = torchvision.models.resnet50(weights=None, norm_layer=norm)
    return _last_map(net, {f"layer{level}": str(level - 1) for level in (1, 2, 3, 4)})


def _last_map(net: nn.Module, layers: dict[str, str]) -> nn.Module:
    return cast(nn.Module, IntermediateLayerGetter(net, return_layers=layers))


def _mobilenet_v2(norm: NormLayer) -> nn.Module:
    features = torchvision.models.mobilenet_v2(weights=None, norm_layer=norm).features
    # The last blocks of strides 8, 16 and 32. From stride 16 alone, objects of 40 px are two cells wide:
    # on bccd a dilated single map found platelets with AP .57.
    return _last_map(features, {"6": "0", "13": "1", "17": "2"})


def _squeezenet(version: str) -> Callable[[NormLayer], nn.Module]:
    def build(norm: NormLayer) -> nn.Module:
        return cast(nn.Module, getattr(torchvision.models, version)(weights=None).features)

    return build


def _tiny(norm: NormLayer) -> nn.Module:
    """Five 3 x 3 convolutions with group norm, stride 8: trains from nothing on a CPU in minutes."""
    layers: list[tuple[str, nn.Module]] = []
    widths = (3, 32, 64, 128, 128, 128)
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        stride = 2 if index < 3 else 1
        layers.append((f"conv{index + 1}", nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)))
        layers.append((f"norm{index + 1}", nn.GroupNorm(8, outputs)))
        layers.append((f"relu{index + 1}", nn.ReLU(inplace=True)))
    return nn.Sequential(OrderedDict(layers))


_SPECS: dict[str, _Spec] = {
    "caffenet": _Spec(
        build=_alexnet,
        strides=(16,),
        channels=256,
        stages=("0", "3", "6", "8", "10"),
        fc=("classifier.1", "classifier.4"),
    ),
    "vgg16": _Spec(
        build=_vgg16,
        strides=(16,),
        channels=512,
        stages=("0", "5", "10", "17", "24"),
        fc=("classifier.0", "classifier.3"),
    ),
    "resnet50": _Spec(
        build=_resnet50_dilated,
        strides=(16,),
        channels=2048,
        stages=("conv1", "layer1", "layer2", "layer3", "layer4"),
        prefix="",
        memory_format=torch.channels_last,
    ),
    "resnet50_fpn": _Spec(
        build=_resnet50_levels,
        strides=(4, 8, 16, 32),
        channels=256,
        stages=("conv1", "layer1", "layer2", "layer3", "layer4"),
        prefix="",
        pyramid=(256, 512, 1024, 2048),
        memory_format=torch.channels_last,
    ),
    "mobilenet_v2": _Spec(
        build=_mobilenet_v2,
        strides=(8, 16, 32),
        channels=128,
        stages=("0", "2", "4", "7", "14"),
        pyramid=(32, 96, 320),
        memory_format=torch.channels_last,
    ),
    "squeezenet1_0": _Spec(
        build=_squeezenet("squeezenet1_0"),
        strides=(16,),
        channels=512,
        stages=("0", "3", "7", "12"),
    ),
    "squeezenet1_1": _Spec(
        build=_squeezenet("squeezenet1_1"), strides=(16,), channels=512, stages=("0", "3", "6", "9")
    ),
    "tiny": _Spec(
        build=_tiny,
        strides=(8,),
        channels=128,
        stages=("conv1", "conv2", "conv3", "conv4", "conv5"),
    ),
}
