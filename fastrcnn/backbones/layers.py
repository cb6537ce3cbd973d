"""Modules that networks are built from and torchvision lacks. N images, C channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class Levels(nn.ModuleDict):
    """The children of a network, run in order up to the last one of `names`; gives the maps of those.

    The children keep their names, so published weights load by key. The network's forward pass must be its
    children in order, at least that far, as in torchvision's classifiers.

    torchvision's public `create_feature_extractor` traces the forward pass, once for training and once for
    inference. The children in order need no tracing, and a printed network reads as it was written.
    """

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        children = dict(net.named_children())
        unknown = sorted(set(names) - set(children))
        if unknown:
            raise ValueError(
                f"children {', '.join(unknown)}: expected some of {', '.join(children)}"
            )
        last = max(list(children).index(name) for name in names)
        super().__init__(dict(list(children.items())[: last + 1]))
        self.names = tuple(names)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for name, child in self.items():
            x = child(x)
            if name in self.names:
                maps[name] = x
        return maps


class ResponseNorm(nn.Module):
    """Caffe's local response normalisation over 5 channels, with the constants of VGG_CNN_M_1024.

    x / (2 + 5e-4 / 5 * sum of the squares of the 5 nearest channels)^.75. The map goes in as rows of pixels:
    torch's layer then averages with avg_pool2d. For maps it takes avg_pool3d, whose CUDA gradient has no
    deterministic form.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)  # (N, C, H * W)
        return F.local_response_norm(rows, 5, alpha=5e-4, beta=0.75, k=2.0).reshape(x.shape)
