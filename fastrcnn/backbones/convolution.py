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
"""Whether torch has oneDNN's kernels for this CPU. Elsewhere its other kernels are no slower, or the only
ones."""


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's frozen batch norm in one pass over the map instead of two.

    It keeps half as many maps for the gradient.
    """

    folded = False
    """The convolution before it does its work (`FastConv2d`), and it returns its input."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (C,) each: the map is multiplied by one, then the other is added."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        if self.folded:
            return x
        scale, shift = self.factors()
        # Under autocast the map is bfloat16, and beside float32 numbers it would become float32 again.
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, scale.to(x.dtype)[:, None, None])


class FastConv2d(nn.Conv2d):
    """A convolution that includes the frozen norm after it, if there is one.

    The norm multiplies the weights instead of the map, in training too: the gradient reaches the weights
    through the product. That saves a pass over every map forward and one backward: a seventh of the time of
    mobilenet_v2's training step on a CPU (docs/benchmarks.md).

    With one thread and fewer than 16 images torch hands 1 x 1 convolutions to its BLAS (`use_mkldnn` in
    aten/src/ATen/native/Convolution.cpp), unless they are dilated, which changes nothing for a 1 x 1 kernel.
    oneDNN takes half of that time, forward and backward (AMD EPYC, Zen 5). Every Detector, trial and training
    worker that has one CPU has one thread.
    """

    norm: tuple[FrozenNorm, ...] = ()
    """Empty, or the one norm. In a tuple torch does not register it a second time, so its numbers keep their
    names in the state_dict."""

    @classmethod
    def like(cls, conv: nn.Conv2d, norm: FrozenNorm | None) -> Self:
        """Build one with the weights of `conv`; from now on `norm` returns its input."""
        # On "meta" no random number is drawn: modules that are built later start as they did.
        same = cls(
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
        same.weight, same.bias = conv.weight, conv.bias
        if norm is not None:
            norm.folded = True
            same.norm = (norm,)
        return same

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
    """Replace the convolutions of `net` that can be faster; weights, their names and the results stay.

    A frozen norm must take the output of the convolution that is registered right before it in the same
    module. That holds for all of torchvision's networks here; tests compare the results of every backbone.
    """
    for parent in list(net.modules()):
        children = list(parent.named_children())
        following = [child for _, child in children[1:]]
        for (name, conv), after in zip_longest(children, following):
            if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
                continue
            norm = after if isinstance(after, FrozenNorm) else None
            if norm is not None or _is_pointwise(conv):
                setattr(parent, name, FastConv2d.like(conv, norm))


def _is_pointwise(conv: nn.Conv2d) -> bool:
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    return kernel == (1, 1) and stride == (1, 1) and padding == (0, 0) and conv.groups == 1


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    """Two of nn.Conv2d's numbers, which torch types as those of any nn.ConvNd."""
    height, width = values
    return height, width
