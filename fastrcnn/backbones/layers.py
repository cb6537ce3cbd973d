"""Modules of the networks here that torchvision does not have. N images, C channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from fastrcnn.backbones.spec import NormLayer


class Levels(nn.ModuleDict):
    """The first children of a network. They run in order, and the outputs of those in `names` are returned.

    Children after the last one in `names` are left out. The children keep their names, so published weights
    load by key. The network's forward pass must run these children in order, as torchvision's classifiers do.

    Args:
        channels_at_end: the children give maps (N, H, W, C). Those that are returned are (N, C, H, W).

    torchvision's public `create_feature_extractor` would trace the forward pass, once for training and once
    for inference. This class needs no tracing, and a printed network looks like its source code.
    """

    def __init__(
        self, net: nn.Module, names: Sequence[str], *, channels_at_end: bool = False
    ) -> None:
        children = dict(net.named_children())
        unknown = sorted(set(names) - set(children))
        if unknown:
            raise ValueError(
                f"children {', '.join(unknown)}: expected some of {', '.join(children)}"
            )
        last = max(list(children).index(name) for name in names)
        super().__init__(dict(list(children.items())[: last + 1]))
        self.names = tuple(names)
        self.channels_at_end = channels_at_end

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for name, child in self.items():
            x = child(x)
            if name in self.names:
                maps[name] = x.permute(0, 3, 1, 2) if self.channels_at_end else x
        return maps


def replace_norms(net: nn.Module, norm: NormLayer) -> nn.Module:
    """Replace the batch norms of a network, in place. The new ones have the same names and the same eps.

    torchvision's MobileNetV3 and EfficientNet have an eps of .001, with which their weights were trained.

    Args:
        norm: `FrozenNorm`, or `nn.BatchNorm2d`, which changes nothing.
    """
    if norm is nn.BatchNorm2d:
        return net
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, norm(child.num_features, eps=child.eps))
    return net


class MapNorm(nn.LayerNorm):
    """A layer norm over the channels of each cell of a map (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResponseNorm(nn.Module):
    """Caffe's local response normalisation over 5 channels, with the constants of VGG_CNN_M_1024.

    It computes x / (2 + 5e-4 / 5 * sum of the squares of the 5 nearest channels)^.75. torch's layer gets the
    map as rows of pixels, because it then averages with avg_pool2d. For maps it uses avg_pool3d, whose CUDA
    gradient has no deterministic form.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)  # (N, C, H * W)
        return F.local_response_norm(rows, 5, alpha=5e-4, beta=0.75, k=2.0).reshape(x.shape)
