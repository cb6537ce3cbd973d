"""ResNet-50 (He et al. 2016), on a single map and with a feature pyramid.

`resnet50_fpn_v2` is the detector of Li et al. 2021 (torchvision's fasterrcnn_resnet50_fpn_v2): batch norms in
the pyramid, and a head of four convolutions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrcnn.backbones.spec import BackboneSpec, PublishedDetector, torchvision_weights

if TYPE_CHECKING:
    from torch import nn

    from fastrcnn.backbones.spec import NormLayer


def _dilated(norm: NormLayer) -> nn.Module:
    """Build the network with a dilated conv5 at stride 16, like detectron2's R50-DC5. It has one map."""
    import torchvision

    from fastrcnn.backbones.layers import Levels

    net = torchvision.models.resnet50(
        weights=None, norm_layer=norm, replace_stride_with_dilation=[False, False, True]
    )
    return Levels(net, ("layer4",))


def _levels(norm: NormLayer) -> nn.Module:
    import torchvision

    from fastrcnn.backbones.layers import Levels

    net = torchvision.models.resnet50(weights=None, norm_layer=norm)
    return Levels(net, ("layer1", "layer2", "layer3", "layer4"))


_STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")

SPECS = (
    BackboneSpec(
        name="resnet50",
        body=_dilated,
        strides=(16,),
        channels=(2048,),
        stages=_STAGES,
        channels_last=True,
        imagenet=torchvision_weights("resnet50", "IMAGENET1K_V2"),
        imagenet_v1=torchvision_weights("resnet50"),
    ),
    BackboneSpec(
        name="resnet50_fpn",
        chosen_on=("gpu",),
        body=_levels,
        strides=(4, 8, 16, 32),
        channels=(256, 512, 1024, 2048),
        fpn_channels=256,
        stages=_STAGES,
        channels_last=True,
        imagenet=torchvision_weights("resnet50", "IMAGENET1K_V2"),
        imagenet_v1=torchvision_weights("resnet50"),
        modern={"scale": 800, "max_size": 1333},  # TV and D2
        detectors=(PublishedDetector(name="fasterrcnn_resnet50_fpn", norm_eps=0.0),),
    ),
    BackboneSpec(
        name="resnet50_fpn_v2",
        body=_levels,
        strides=(4, 8, 16, 32),
        channels=(256, 512, 1024, 2048),
        fpn_channels=256,
        fpn_norm=True,
        stages=_STAGES,
        channels_last=True,
        imagenet=torchvision_weights("resnet50", "IMAGENET1K_V2"),
        imagenet_v1=torchvision_weights("resnet50"),
        modern={"scale": 800, "max_size": 1333, "head_convs": 4},  # TV fasterrcnn_resnet50_fpn_v2
        detectors=(
            PublishedDetector(
                name="fasterrcnn_resnet50_fpn_v2",
                norm_eps=1e-5,
                model={"head_convs": 4},
                rpn={"convs": 2},
            ),
        ),
    ),
)
