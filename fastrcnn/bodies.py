"""The networks that backbones are cut from, up to their last convolutional map.

N images, C channels. Every builder takes the norm layer to build with; modules keep the names of the
published weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter

NormLayer = Callable[..., nn.Module]


class ResponseNorm(nn.Module):
    """Caffe's local response normalisation over 5 channels, with the constants of VGG_CNN_M_1024.

    x / (2 + 5e-4 / 5 * sum of the squares of the 5 nearest channels)^.75. The map goes in as rows of pixels:
    torch's layer then averages with avg_pool2d; for maps it takes avg_pool3d, whose CUDA gradient has no
    deterministic form.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)  # (N, C, H * W)
        return F.local_response_norm(rows, 5, alpha=5e-4, beta=0.75, k=2.0).reshape(x.shape)


def alexnet(norm: NormLayer) -> nn.Module:
    net = torchvision.models.alexnet(weights=None)
    return cast(nn.Module, net.features[:-1])  # without pool5


def vgg16(norm: NormLayer) -> nn.Module:
    net = torchvision.models.vgg16(weights=None)
    return cast(nn.Module, net.features[:-1])  # without pool5


def vgg_m(norm: NormLayer) -> nn.Module:
    """VGG_CNN_M_1024 (Chatfield et al. 2014) up to relu5; layers and names of fast-rcnn's train.prototxt.

    Caffe rounds the size of a pooled map up, hence ceil_mode.
    """
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(3, 96, 7, 2),
            relu1=nn.ReLU(inplace=True),
            norm1=ResponseNorm(),
            pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
            conv2=nn.Conv2d(96, 256, 5, 2, 1),
            relu2=nn.ReLU(inplace=True),
            norm2=ResponseNorm(),
            pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
            conv3=nn.Conv2d(256, 512, 3, 1, 1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(512, 512, 3, 1, 1),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(512, 512, 3, 1, 1),
            relu5=nn.ReLU(inplace=True),
        )
    )


def resnet50_dilated(norm: NormLayer) -> nn.Module:
    # conv5 at stride 16 (dilated), as detectron2's R50-DC5: one map that fc6 and fc7 can pool from.
    net = torchvision.models.resnet50(
        weights=None, norm_layer=norm, replace_stride_with_dilation=[False, False, True]
    )
    return _last_map(net, {"layer4": "0"})


def resnet50_levels(norm: NormLayer) -> nn.Module:
    net = torchvision.models.resnet50(weights=None, norm_layer=norm)
    return _last_map(net, {f"layer{level}": str(level - 1) for level in (1, 2, 3, 4)})


def _last_map(net: nn.Module, layers: dict[str, str]) -> nn.Module:
    return cast(nn.Module, IntermediateLayerGetter(net, return_layers=layers))


def mobilenet_v2(norm: NormLayer) -> nn.Module:
    features = torchvision.models.mobilenet_v2(weights=None, norm_layer=norm).features
    # The last blocks of strides 8, 16 and 32. From stride 16 alone, objects of 40 px are two cells wide:
    # on bccd a dilated single map found platelets with AP .57.
    return _last_map(features, {"6": "0", "13": "1", "17": "2"})


def squeezenet(version: str) -> Callable[[NormLayer], nn.Module]:
    def build(norm: NormLayer) -> nn.Module:
        return cast(nn.Module, getattr(torchvision.models, version)(weights=None).features)

    return build


def tiny(norm: NormLayer) -> nn.Module:
    """Five 3 x 3 convolutions with group norm, stride 8: trains from nothing on a CPU in minutes."""
    layers: list[tuple[str, nn.Module]] = []
    widths = (3, 32, 64, 128, 128, 128)
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        stride = 2 if index < 3 else 1
        layers.append((f"conv{index + 1}", nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)))
        layers.append((f"norm{index + 1}", nn.GroupNorm(8, outputs)))
        layers.append((f"relu{index + 1}", nn.ReLU(inplace=True)))
    return nn.Sequential(OrderedDict(layers))
