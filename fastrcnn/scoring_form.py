"""A trained model in the form that scores fastest: the same function, not to be trained or saved.

Norm layers that keep their statistics are a factor and a summand a channel: they go into the weights of the
convolution before them for good, where training folds the frozen ones in at every step
(`fastrcnn.backbones.convolution`). On a CPU fc6 and fc7 are kept in oneDNN's layout: torch would give them to
its BLAS, which takes twice as long on AMD EPYC (Zen 5).

Where the device multiplies bfloat16 (`fastrcnn.precision`), convolutions, fc6 and fc7 are kept in it. What is
read off them is not: proposals, pooling, the two sibling outputs and all boxes stay float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from fastrcnn.backbones.convolution import ONEDNN, FastConv2d
from fastrcnn.model import FastRCNN
from fastrcnn.precision import multiplies_bfloat16


class PackedLinear(nn.Module):
    """A linear layer whose weights lie in oneDNN's layout; (R, inputs) to (R, outputs), of its own type."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # No buffers: nothing that moves, casts or saves a module knows the layout.
        self._weight = linear.weight.detach().to_mkldnn()
        self._bias = None if linear.bias is None else linear.bias.detach().to_mkldnn()
        self.out_features = linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        if not len(x):
            return x.new_empty((0, self.out_features))
        return F.linear(x.to_mkldnn(), self._weight, self._bias).to_dense()


def scoring_form(model: FastRCNN, *, bfloat16: bool | None = None) -> FastRCNN:
    """Change a model in eval mode, on the device where it is to stay, and give it back.

    Args:
        model: changed in place.
        bfloat16: whether to compute in it; None: where the device has instructions for it. Scores then differ
            from float32's in the third digit, boxes by a fraction of a pixel (docs/benchmarks.md has the mAP
            of both).
    """
    model.requires_grad_(False)
    fold_norms(model.backbone)
    device = model.device
    if multiplies_bfloat16(device) if bfloat16 is None else bfloat16:
        to_bfloat16(model)
    if ONEDNN and device.type == "cpu":
        model.head.fc6, model.head.fc7 = _packed(model.head.fc6), _packed(model.head.fc7)
    return model


def to_bfloat16(model: FastRCNN) -> None:
    """Convolutions, fc6 and fc7, in place; what comes out stays float32."""
    for part in (model.backbone, model.head.fc6, model.head.fc7):
        part.bfloat16()
    if model.rpn is not None:
        model.rpn.head.bfloat16()
    model.head.hidden_dtype = torch.bfloat16


def _packed(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return PackedLinear(layer)
    return nn.Sequential(*(_packed(thin) for thin in layer.children()))  # of `fastrcnn.svd`


@torch.no_grad()
def fold_norms(net: nn.Module) -> None:
    """Move each norm that keeps its statistics into the convolution registered right before it, which in all
    of `fastrcnn.backbones` is the one whose output it takes."""
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in zip(children, children[1:], strict=False):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                _fold(conv, norm)
                setattr(parent, name, nn.Identity())


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # the bodies' norms keep statistics
    assert variance is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(  # in the memory format they were in
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    if isinstance(conv, FastConv2d):
        conv.norm = ()
