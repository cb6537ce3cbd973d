"""EfficientNetV2-S (Tan and Le 2021) with a feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrcnn.backbones.spec import BackboneSpec, torchvision_weights

if TYPE_CHECKING:
    from torch import nn

    from fastrcnn.backbones.spec import NormLayer


def _body(norm: NormLayer) -> nn.Module:
    """Build the network up to its last blocks, without the convolution of the classifier.

    No block is skipped at random in training, because the steps of one worker and of several must agree.
    """
    import torchvision

    from fastrcnn.backbones.layers import Levels, replace_norms

    net = torchvision.models.efficientnet_v2_s(weights=None, stochastic_depth_prob=0.0)
    return Levels(replace_norms(net.features, norm), ("2", "3", "5", "6"))


SPECS = (
    BackboneSpec(
        name="efficientnet_v2_s",
        body=_body,
        strides=(4, 8, 16, 32),
        channels=(48, 64, 160, 256),
        fpn_channels=256,
        stages=("0", "2", "3", "4", "6"),
        channels_last=True,
        imagenet=torchvision_weights("efficientnet_v2_s"),
        weights_prefix="features.",
        modern={"scale": 800, "max_size": 1333},
    ),
)
