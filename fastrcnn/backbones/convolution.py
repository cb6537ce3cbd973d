"""Convolutions that take less CPU time for the same results.

A frozen norm is multiplied into the weights of the convolution before it. On one thread, a 1 x 1 convolution
uses oneDNN's kernel.
"""

from __future__ import annotations

import platform
from itertools import zip_longest
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

ONEDNN = (
    platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
)
"""Whether torch has oneDNN's kernels for this CPU. On other CPUs its other kernels are as fast, or the only
ones."""


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's frozen batch norm, in one pass over the map instead of two.

    It keeps half as many maps for the backward pass.
    """

    folded = False
    """True if the convolution before it includes this norm (`FastConv2d`). Then it returns its input."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (C,) each. The map is multiplied by scale, then shift is added."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        if self.folded:
            return x
        scale, shift = self.factors()
        # Under autocast the map is bfloat16. With float32 factors it would become float32 again.
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, scale.to(x.dtype)[:, None, None])


class FastConv2d(nn.Conv2d):
    """A convolution that includes the frozen norm after it, if there is one.

    The norm multiplies the weights instead of the map, in training too: the gradient reaches the weights
    through the product. This saves a pass over every map, forward and backward. On a CPU that is a seventh of
    the time of mobilenet_v2's training step (docs/lab-notes.md).

    With one thread and fewer than 16 images, torch computes 1 x 1 convolutions with its BLAS (`use_mkldnn` in
    aten/src/ATen/native/Convolution.cpp). oneDNN takes half of that time, forward and backward (AMD EPYC, Zen
    5). torch uses oneDNN if a convolution is dilated, and dilation changes nothing for a 1 x 1 kernel. So
    these convolutions are dilated here. Every Detector, trial and training worker with one CPU has one
    thread.
    """

    norm: tuple[FrozenNorm, ...] = ()
    """Empty, or one norm. It is in a tuple so that torch does not register it again. So its numbers keep
    their names in the state_dict."""

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, norm: FrozenNorm | None) -> Self:
        """Build a `FastConv2d` with the weights of `conv`. A given `norm` returns its input from now on."""
        # On "meta" no random number is drawn. So modules that are built later get the same initial weights.
        fast = cls(
            conv.in_channels,
            conv.out_channels,
            _pair(conv.kernel_size),
            _pair(conv.stride),
            padding=conv.padding if isinstance(conv.padding, str) else _pair(conv.padding),
            dilation=_pair(conv.dilation),
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        fast.weight, fast.bias = conv.weight, conv.bias
        if norm is not None:
            norm.folded = True
            fast.norm = (norm,)
        return fast

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        for norm in self.norm:
            scale, shift = norm.factors()
            weight = weight * scale[:, None, None, None]
            bias = shift if bias is None else bias * scale + shift
        cpu = ONEDNN and x.device.type == "cpu" and _is_pointwise(self)
        dilation = 2 if cpu else self.dilation
        return F.conv2d(x, weight, bias, self.stride, self.padding, dilation, self.groups)


def use_fast_convolutions(net: nn.Module) -> None:
    """Replace the convolutions of `net` that can be faster. Weights, names and results do not change.

    A frozen norm must take the output of the convolution that is registered just before it in the same
    module. This is true for all networks of torchvision that are used here. Tests compare the results of
    every backbone.
    """
    for parent in list(net.modules()):
        children = list(parent.named_children())
        next_children = [child for _, child in children[1:]]
        for (name, conv), after in zip_longest(children, next_children):
            if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
                continue
            norm = after if isinstance(after, FrozenNorm) else None
            if norm is not None or _is_pointwise(conv):
                setattr(parent, name, FastConv2d.from_conv(conv, norm))


def _is_pointwise(conv: nn.Conv2d) -> bool:
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    return kernel == (1, 1) and stride == (1, 1) and padding == (0, 0) and conv.groups == 1


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    """Return two numbers of an nn.Conv2d as a pair. torch types them as a tuple of any length."""
    height, width = values
    return height, width
