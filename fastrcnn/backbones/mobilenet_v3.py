"""MobileNetV3-Large (Howard et al. 2019) with a feature pyramid: for training and scoring on CPUs.

`mobilenet_v3_large_fpn` has maps of strides 4 to 32. torchvision's detectors on this network have two maps of
stride 32, so they are fast and miss small objects: `mobilenet_v3_large_stride32`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrcnn.backbones.spec import BackboneSpec, PublishedDetector, torchvision_weights

if TYPE_CHECKING:
    from torch import nn

    from fastrcnn.backbones.spec import NormLayer


def _body(norm: NormLayer, maps: tuple[str, ...] = ("3", "6", "12", "16")) -> nn.Module:
    """Build the network up to the last blocks of strides 4, 8 and 16, and its last convolution."""
    import torchvision

    from fastrcnn.backbones.layers import Levels, replace_norms

    net = torchvision.models.mobilenet_v3_large(weights=None)
    return Levels(replace_norms(net.features, norm), maps)


def _stride32(norm: NormLayer) -> nn.Module:
    """Build the network of torchvision's detectors: the first block of stride 32 and the last convolution."""
    return _body(norm, ("13", "16"))


_STAGES = ("0", "2", "4", "7", "13")
_RPN = {"sides": ((32.0, 64.0, 128.0, 256.0, 512.0),) * 3, "score_threshold": 0.05}

SPECS = (
    BackboneSpec(
        name="mobilenet_v3_large_fpn",
        body=_body,
        strides=(4, 8, 16, 32),
        channels=(24, 40, 112, 960),
        fpn_channels=128,
        stages=_STAGES,
        channels_last=True,
        imagenet=torchvision_weights("mobilenet_v3_large", "IMAGENET1K_V2"),
        imagenet_v1=torchvision_weights("mobilenet_v3_large"),
        weights_prefix="features.",
        coco_backbone="mobilenet_v3_large_stride32",
    ),
    BackboneSpec(
        name="mobilenet_v3_large_stride32",
        chosen_on=("cpu coco",),
        body=_stride32,
        strides=(32, 32),
        channels=(160, 960),
        fpn_channels=256,
        stages=_STAGES,
        channels_last=True,
        imagenet=torchvision_weights("mobilenet_v3_large", "IMAGENET1K_V2"),
        imagenet_v1=torchvision_weights("mobilenet_v3_large"),
        weights_prefix="features.",
        modern={"scale": 800, "max_size": 1333},
        detectors=(
            PublishedDetector(name="fasterrcnn_mobilenet_v3_large_fpn", norm_eps=1e-5, rpn=_RPN),
            PublishedDetector(
                name="fasterrcnn_mobilenet_v3_large_320_fpn",
                norm_eps=1e-5,
                model={"scale": 320, "max_size": 640},
                rpn={**_RPN, "pre_nms_test": 150, "max_proposals_test": 150},
            ),
        ),
    ),
)
