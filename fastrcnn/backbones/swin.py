"""Swin Transformer V2-T (Liu et al. 2022) with a feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrcnn.backbones.spec import BackboneSpec, torchvision_weights

if TYPE_CHECKING:
    from torch import nn

    from fastrcnn.backbones.spec import NormLayer


def _body(norm: NormLayer) -> nn.Module:
    """Build the network up to its last blocks. Its maps are (N, H, W, C). It has layer norms only.

    No block is skipped at random in training, because the steps of one worker and of several must agree.
    """
    import torchvision

    from fastrcnn.backbones.layers import Levels

    net = torchvision.models.swin_v2_t(weights=None)
    for layer in net.modules():
        if isinstance(layer, torchvision.ops.StochasticDepth):
            layer.p = 0.0
    return Levels(net.features, ("1", "3", "5", "7"), channels_at_end=True)


SPECS = (
    BackboneSpec(
        name="swin_v2_t",
        body=_body,
        strides=(4, 8, 16, 32),
        channels=(96, 192, 384, 768),
        fpn_channels=256,
        norm_maps=True,
        stages=("0", "1", "2", "4", "6"),
        imagenet=torchvision_weights("swin_v2_t"),
        weights_prefix="features.",
        modern={"scale": 800, "max_size": 1333},
    ),
)
