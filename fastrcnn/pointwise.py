"""1 x 1 convolutions as fast on one CPU thread as on many."""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ONEDNN = (
    platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
)
"""oneDNN's own kernels; elsewhere torch's other ways to multiply are no slower, or the only ones."""


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution of stride 1 that goes to oneDNN even where torch has one thread.

    With one thread and fewer than 16 images torch hands them to its BLAS (`use_mkldnn` in
    aten/src/ATen/native/Convolution.cpp), unless they are dilated, which to a 1 x 1 kernel means nothing.
    oneDNN takes half of that time, forward and backward (AMD EPYC, Zen 5), and every Detector, trial and
    training worker on a CPU of its own has one thread.
    """

    def forward(self, x: Tensor) -> Tensor:
        dilation = 2 if ONEDNN and x.device.type == "cpu" else 1
        return F.conv2d(x, self.weight, self.bias, dilation=dilation)


def use_pointwise(net: nn.Module) -> None:
    """Replace the plain 1 x 1 convolutions of `net`; weights, their names and the results stay."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and _is_pointwise(child):
                setattr(parent, name, _replacement(child))


def _is_pointwise(conv: nn.Conv2d) -> bool:
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    return kernel == (1, 1) and stride == (1, 1) and padding == (0, 0) and conv.groups == 1


def _replacement(conv: nn.Conv2d) -> PointwiseConv2d:
    # On "meta" nothing is drawn: the random numbers of what is built next stay as they were.
    same = PointwiseConv2d(
        conv.in_channels, conv.out_channels, 1, bias=conv.bias is not None, device="meta"
    )
    same.weight, same.bias = conv.weight, conv.bias
    return same
