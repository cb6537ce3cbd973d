"""Feature extractors: classifiers up to their last convolutional map, and their weights.

N images, C channels. A backbone gives one map a pyramid level, finest first, and says its strides.
Its `body` keeps the module names of torchvision (vgg_m: of Caffe), so a classifier's state_dict loads by key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, cast

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from fastrcnn import bodies
from fastrcnn.convolution import FrozenNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spec:
    """How to cut one classifier.

    build: norm layer -> body. stages: name of the first child of each stage. prefix: of the body's keys in
    torchvision's state_dict. fc: the classifier's layers that become fc6 and fc7.
    """

    build: Callable[[bodies.NormLayer], nn.Module]
    strides: tuple[int, ...]
    channels: int
    stages: tuple[str, ...]
    prefix: str = "features."
    fc: tuple[str, str] | None = None
    pyramid: tuple[int, ...] = ()
    memory_format: torch.memory_format = torch.contiguous_format
    """Of a training step on 2 CPU cores: channels last, with `FrozenNorm`, takes a half to a quarter of the
    time for mobilenet_v2 and resnet50, as much for tiny, and two to three times as much for squeezenet."""


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
        self._frozen: tuple[str, ...] = ()
        self.to(memory_format=spec.memory_format)

    def forward(self, images: Tensor) -> list[Tensor]:
        dtype = next(self.parameters()).dtype  # of `fastrcnn.scoring_form`, maybe bfloat16
        # Tensor cores read channels last; cuDNN would turn other layouts round and back.
        layout = torch.channels_last if images.is_cuda else self.memory_format
        maps = self.body(images.to(dtype, memory_format=layout))
        if self.fpn is not None:
            maps = self.fpn(maps)
        return list(maps.values()) if isinstance(maps, dict) else [maps]

    def freeze(self, stages: int) -> None:
        """Stop the gradient into the first `stages` stages (paper, section 4.5 and Table 5).

        0 freezes nothing, all of them everything convolutional but a feature pyramid's own layers, which have
        no weights to keep. Of vgg16: 0 trains from conv1_1 on, 1 from conv2_1, 2 from conv3_1, 5 from fc6.
        The gradient is not even computed there, and norm layers there keep their statistics.
        """
        starts = _SPECS[self.name].stages
        if not 0 <= stages <= len(starts):
            raise ValueError(f"frozen_stages={stages}: {self.name} has {len(starts)} stages")
        names = [name for name, _ in self.body.named_children()]
        end = names.index(starts[stages]) if stages < len(starts) else len(names)
        self._frozen = tuple(names[:end])
        for name in self._frozen:
            self.body.get_submodule(name).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self._frozen:
            self.body.get_submodule(name).eval()
        return self


def strides_of(name: str) -> tuple[int, ...]:
    """Pixels of the model frame a cell of each map of a backbone, finest first."""
    return _SPECS[name].strides


def body_weights(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a torchvision classifier's state_dict that the body holds, under the body's keys."""
    prefix = _SPECS[name].prefix
    return {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}


def fc_weights(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifier's two hidden layers as `fc6.*` and `fc7.*`, where it has them and they are given."""
    layers = _SPECS[name].fc or ()
    return {
        f"{fc}.{part}": state_dict[f"{layer}.{part}"]
        for fc, layer in zip(("fc6", "fc7"), layers, strict=False)
        for part in ("weight", "bias")
        if f"{layer}.{part}" in state_dict
    }


def imagenet_weights(name: str) -> Mapping[str, Tensor]:
    """torchvision's ImageNet state_dict for a backbone; downloads it once into torch's hub folder.

    Raises:
        ValueError: nothing is published for this backbone.
        OSError: the download failed.
    """
    if name == "tiny":
        raise ValueError("backbone tiny has no ImageNet weights; train it with weights 'none'")
    if name == "vgg_m":
        raise ValueError("torchvision has no vgg_m; give VGG_CNN_M_1024.caffemodel, as published")
    arch = {"caffenet": "alexnet", "resnet50_fpn": "resnet50"}.get(name, name)
    weights = torchvision.models.get_model_weights(arch)
    return cast(
        Mapping[str, Tensor],
        # torch.hub's own default runs whatever code a pickle holds.
        weights["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True, weights_only=True),
    )


_SPECS: dict[str, _Spec] = {
    "caffenet": _Spec(
        build=bodies.alexnet,
        strides=(16,),
        channels=256,
        stages=("0", "3", "6", "8", "10"),
        fc=("classifier.1", "classifier.4"),
    ),
    "vgg_m": _Spec(
        build=bodies.vgg_m,
        strides=(16,),
        channels=512,
        stages=("conv1", "conv2", "conv3", "conv4", "conv5"),
        prefix="",
        fc=("fc6", "fc7"),
    ),
    "vgg16": _Spec(
        build=bodies.vgg16,
        strides=(16,),
        channels=512,
        stages=("0", "5", "10", "17", "24"),
        fc=("classifier.0", "classifier.3"),
    ),
    "resnet50": _Spec(
        build=bodies.resnet50_dilated,
        strides=(16,),
        channels=2048,
        stages=("conv1", "layer1", "layer2", "layer3", "layer4"),
        prefix="",
        memory_format=torch.channels_last,
    ),
    "resnet50_fpn": _Spec(
        build=bodies.resnet50_levels,
        strides=(4, 8, 16, 32),
        channels=256,
        stages=("conv1", "layer1", "layer2", "layer3", "layer4"),
        prefix="",
        pyramid=(256, 512, 1024, 2048),
        memory_format=torch.channels_last,
    ),
    "mobilenet_v2": _Spec(
        build=bodies.mobilenet_v2,
        strides=(8, 16, 32),
        channels=128,
        stages=("0", "2", "4", "7", "14"),
        pyramid=(32, 96, 320),
        memory_format=torch.channels_last,
    ),
    "squeezenet1_0": _Spec(
        build=bodies.squeezenet("squeezenet1_0"),
        strides=(16,),
        channels=512,
        stages=("0", "3", "7", "12"),
    ),
    "squeezenet1_1": _Spec(
        build=bodies.squeezenet("squeezenet1_1"),
        strides=(16,),
        channels=512,
        stages=("0", "3", "6", "9"),
    ),
    "tiny": _Spec(
        build=bodies.tiny,
        strides=(8,),
        channels=128,
        stages=("conv1", "conv2", "conv3", "conv4", "conv5"),
    ),
}
