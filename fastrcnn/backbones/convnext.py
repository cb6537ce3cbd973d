"""ConvNeXt-Tiny (Liu et al. 2022) with a feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrcnn.backbones.spec import BackboneSpec, torchvision_weights

if TYPE_CHECKING:
    from torch import nn

    from fastrcnn.backbones.spec import NormLayer


def _body(norm: NormLayer) -> nn.Module:
    """Build the network up to its last blocks. It has layer norms only.

    No block is skipped at random in training, because the steps of one worker and of several must agree.
    """
    import torchvision

    from fastrcnn.backbones.layers import Levels

    net = torchvision.models.convnext_tiny(weights=None, stochastic_depth_prob=0.0)
    return Levels(net.features, ("1", "3", "5", "7"))


SPECS = (
    BackboneSpec(
        name="convnext_tiny",
        body=_body,
        strides=(4, 8, 16, 32),
        channels=(96, 192, 384, 768),
        fpn_channels=256,
        norm_maps=True,
        stages=("0", "1", "2", "4", "6"),
        channels_last=True,
        imagenet=torchvision_weights("convnext_tiny"),
        weights_prefix="features.",
        modern={"scale": 800, "max_size": 1333},
    ),
)
