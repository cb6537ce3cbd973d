"""A small network that trains from random weights on a CPU in minutes: for tests and the demo."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING

from fastrcnn.backbones.spec import BackboneSpec

if TYPE_CHECKING:
    from torch import nn

    from fastrcnn.backbones.spec import NormLayer


def _body(norm: NormLayer) -> nn.Module:
    """Build five 3 x 3 convolutions with group norm. The stride is 8."""
    from torch import nn

    layers: list[tuple[str, nn.Module]] = []
    widths = (3, 32, 64, 128, 128, 128)
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        stride = 2 if index < 3 else 1
        layers.append((f"conv{index + 1}", nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)))
        layers.append((f"norm{index + 1}", nn.GroupNorm(8, outputs)))
        layers.append((f"relu{index + 1}", nn.ReLU(inplace=True)))
    return nn.Sequential(OrderedDict(layers))


SPECS = (
    BackboneSpec(
        name="tiny",
        body=_body,
        strides=(8,),
        channels=(128,),
        stages=("conv1", "conv2", "conv3", "conv4", "conv5"),
        modern={"frozen_stages": 0},  # it has no published weights to keep
    ),
)
