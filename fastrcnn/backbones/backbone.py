"""The module that is made from a `BackboneSpec`: it turns images into feature maps.

N images, C channels. A backbone returns one map for each level of a pyramid, finest first, and holds their
strides. Its `body` keeps the module names of the published weights, so a classifier's state_dict loads by
key.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from fastrcnn.backbones import backbone_spec
from fastrcnn.backbones.convolution import FrozenNorm
from fastrcnn.backbones.layers import MapNorm


class Backbone(nn.Module):
    """Turns normalised images (N, 3, H, W) into maps (N, C, H / stride, W / stride), finest first."""

    def __init__(self, name: str, *, frozen_norm: bool = True) -> None:
        super().__init__()
        spec = backbone_spec(name)
        self.name = name
        self.strides = spec.strides
        self.out_channels = spec.out_channels
        norm = FrozenNorm if frozen_norm else nn.BatchNorm2d
        self.body = spec.body(norm)
        self.norms = nn.ModuleList(map(MapNorm, spec.channels) if spec.norm_maps else ())
        self.fpn = (
            FeaturePyramidNetwork(
                list(spec.channels), spec.fpn_channels, norm_layer=norm if spec.fpn_norm else None
            )
            if spec.fpn_channels
            else None
        )
        self.memory_format = torch.channels_last if spec.channels_last else torch.contiguous_format
        self._frozen: tuple[str, ...] = ()
        self.to(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> list[Tensor]:
        dtype = next(self.parameters()).dtype  # bfloat16 if `fastrcnn.scoring_form` changed it
        # Tensor cores read channels-last maps. cuDNN would transpose other layouts, and transpose them back.
        layout = torch.channels_last if images.is_cuda else self.memory_format
        maps = self.body(images.to(dtype, memory_format=layout))
        if self.norms:
            maps = {name: norm(x) for norm, (name, x) in zip(self.norms, maps.items(), strict=True)}
        if self.fpn is not None:
            maps = self.fpn(maps)
        return list(maps.values()) if isinstance(maps, dict) else [maps]

    def freeze(self, stages: int) -> None:
        """Freeze the first `stages` stages (paper, section 4.5 and Table 5).

        With 0, every stage is trained. If all stages are frozen, only the layers of a feature pyramid are
        trained, because they have no published weights. Example vgg16: 0 trains from conv1_1 on, 1 from
        conv2_1, 2 from conv3_1, 5 from fc6. In frozen stages no gradient is computed, and norm layers keep
        their statistics.
        """
        starts = backbone_spec(self.name).stages
        if not 0 <= stages <= len(starts):
            raise ValueError(f"frozen_stages={stages}: {self.name} has {len(starts)} stages")
        names = [name for name, _ in self.body.named_children()]
        end = names.index(starts[stages]) if stages < len(starts) else len(names)
        self._frozen = tuple(names[:end])
        for name in self._frozen:
            self.body.get_submodule(name).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self._frozen:
            self.body.get_submodule(name).eval()
        return self
