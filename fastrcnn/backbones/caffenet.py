"""S of the paper: CaffeNet, here as torchvision's AlexNet (paper, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastrcnn.backbones.spec import BackboneSpec, torchvision_weights

if TYPE_CHECKING:
    from torch import nn

    from fastrcnn.backbones.spec import NormLayer


def _body(norm: NormLayer) -> nn.Module:
    import torchvision

    net = torchvision.models.alexnet(weights=None)
    return cast("nn.Module", net.features[:-1])  # without pool5


SPECS = (
    BackboneSpec(
        name="caffenet",
        body=_body,
        strides=(16,),
        channels=(256,),
        stages=("0", "3", "6", "8", "10"),
        imagenet=torchvision_weights("alexnet"),
        weights_prefix="features.",
        fc=("classifier.1", "classifier.4"),
        # F models/CaffeNet/train.prototxt pools 6 x 6 cells and trains from conv2 on.
        numbers={"pool_size": 6, "fc_dim": 4096},
        paper={"frozen_stages": 1},
    ),
)
