"""M and L of the paper: VGG_CNN_M_1024 and VGG16 (paper, section 4.1). Both have weights for Caffe too."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, cast

from fastrcnn.backbones.spec import BackboneSpec, torchvision_weights

if TYPE_CHECKING:
    from torch import nn

    from fastrcnn.backbones.spec import NormLayer


def _vgg_m(norm: NormLayer) -> nn.Module:
    """Build VGG_CNN_M_1024 (Chatfield et al. 2014) up to relu5, with the names of fast-rcnn's train.prototxt.

    ceil_mode is set because Caffe rounds the size of a pooled map up.
    """
    from torch import nn

    from fastrcnn.backbones.layers import ResponseNorm

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


def _vgg16(norm: NormLayer) -> nn.Module:
    import torchvision

    net = torchvision.models.vgg16(weights=None)
    return cast("nn.Module", net.features[:-1])  # without pool5


_VGG16_CONVOLUTIONS = {
    "conv1_1": 0,
    "conv1_2": 2,
    "conv2_1": 5,
    "conv2_2": 7,
    "conv3_1": 10,
    "conv3_2": 12,
    "conv3_3": 14,
    "conv4_1": 17,
    "conv4_2": 19,
    "conv4_3": 21,
    "conv5_1": 24,
    "conv5_2": 26,
    "conv5_3": 28,
}
"""Caffe's name of each convolution -> its index in torchvision's `features`."""

SPECS = (
    BackboneSpec(
        name="vgg_m",
        body=_vgg_m,
        strides=(16,),
        channels=(512,),
        stages=("conv1", "conv2", "conv3", "conv4", "conv5"),
        without_imagenet="give VGG_CNN_M_1024.caffemodel, as published",
        fc=("fc6", "fc7"),
        caffe_layers={
            layer: layer for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
        },
        # F models/VGG_CNN_M_1024/train.prototxt: 6 x 6 cells, fc7 of 1024, trained from conv2 on.
        numbers={"pool_size": 6, "fc_dim": 4096, "fc7_dim": 1024},
        paper={"frozen_stages": 1},
    ),
    BackboneSpec(
        name="vgg16",
        body=_vgg16,
        strides=(16,),
        channels=(512,),
        stages=("0", "5", "10", "17", "24"),
        imagenet=torchvision_weights("vgg16"),
        weights_prefix="features.",
        fc=("classifier.0", "classifier.3"),
        caffe_layers={
            **{layer: f"features.{index}" for layer, index in _VGG16_CONVOLUTIONS.items()},
            "fc6": "classifier.0",
            "fc7": "classifier.3",
        },
        numbers={"fc_dim": 4096},
        paper={"frozen_stages": 2},  # paper, section 4.5: trained from conv3_1 on
    ),
)
