"""SqueezeNet (Iandola et al. 2016), both versions: small files of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastrcnn.backbones.spec import BackboneSpec, torchvision_weights

if TYPE_CHECKING:
    from torch import nn

    from fastrcnn.backbones.spec import NormLayer


def _squeezenet1_0(norm: NormLayer) -> nn.Module:
    import torchvision

    return cast("nn.Module", torchvision.models.squeezenet1_0(weights=None).features)


def _squeezenet1_1(norm: NormLayer) -> nn.Module:
    import torchvision

    return cast("nn.Module", torchvision.models.squeezenet1_1(weights=None).features)


SPECS = (
    BackboneSpec(
        name="squeezenet1_0",
        body=_squeezenet1_0,
        strides=(16,),
        channels=(512,),
        stages=("0", "3", "7", "12"),
        imagenet=torchvision_weights("squeezenet1_0"),
        weights_prefix="features.",
    ),
    BackboneSpec(
        name="squeezenet1_1",
        body=_squeezenet1_1,
        strides=(16,),
        channels=(512,),
        stages=("0", "3", "6", "9"),
        imagenet=torchvision_weights("squeezenet1_1"),
        weights_prefix="features.",
    ),
)
