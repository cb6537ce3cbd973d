"""The form of a trained model that scores fastest.

It computes the same function, but it can neither be trained nor saved.

Norm layers with fixed statistics multiply each channel by a factor and add a number. Here both are folded
into the weights of the convolution before the layer. (In training, frozen norms are folded in again at every
step, see `fastrcnn.backbones.convolution`.)

On a CPU, fc6 and fc7 are stored in oneDNN's layout. Without it torch computes them with its BLAS, which takes
twice as long on AMD EPYC (Zen 5).

If the device has instructions for bfloat16 (`fastrcnn.precision`), convolutions, fc6 and fc7 compute in
bfloat16. Proposals, pooling, the two sibling outputs and all boxes stay float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from fastrcnn.backbones import backbone_spec
from fastrcnn.backbones.convolution import ONEDNN, FastConv2d
from fastrcnn.model import FastRCNN
from fastrcnn.precision import multiplies_bfloat16


class PackedLinear(nn.Module):
    """A linear layer whose weights are stored in oneDNN's layout: (R, inputs) to (R, outputs).

    The outputs have the type of the weights.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # Not buffers: the methods that move, cast or save a module cannot handle this layout.
        self._weight = linear.weight.detach().to_mkldnn()
        self._bias = None if linear.bias is None else linear.bias.detach().to_mkldnn()
        self.out_features = linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        if not len(x):
            return x.new_empty((0, self.out_features))
        return F.linear(x.to_mkldnn(), self._weight, self._bias).to_dense()


def scoring_form(model: FastRCNN, *, bfloat16: bool | None = None) -> FastRCNN:
    """Change a model into the form that scores fastest, and return it.

    Args:
        model: in eval mode, on the device where it scores. Changed in place.
        bfloat16: whether to compute in bfloat16. None: only if the device has instructions for it. With
            bfloat16 scores change in the third digit, and boxes by a fraction of a pixel (docs/benchmarks.md
            has the mAP of both).
    """
    model.requires_grad_(False)
    if backbone_spec(model.config.backbone).folds_norms:
        fold_norms(model.backbone)
    fold_norms(model.head)
    device = model.device
    if multiplies_bfloat16(device) if bfloat16 is None else bfloat16:
        to_bfloat16(model)
    if ONEDNN and device.type == "cpu" and _onednn_takes(model.head.hidden_dtype):
        model.head.fc6, model.head.fc7 = _pack(model.head.fc6), _pack(model.head.fc7)
    return model


def to_bfloat16(model: FastRCNN) -> None:
    """Change convolutions, fc6 and fc7 to bfloat16, in place. The model's outputs stay float32."""
    for part in (model.backbone, model.head.convs, model.head.fc6, model.head.fc7):
        part.bfloat16()
    if model.rpn is not None:
        model.rpn.head.bfloat16()
    model.head.hidden_dtype = torch.bfloat16


def _onednn_takes(dtype: torch.dtype | None) -> bool:
    """Return whether oneDNN multiplies matrices of this type here. For bfloat16 it wants AVX-512."""
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(layer: nn.Module) -> nn.Module:
    """Pack fc6 or fc7, which is one linear layer or the two thin ones of `fastrcnn.svd`."""
    if isinstance(layer, nn.Linear):
        return PackedLinear(layer)
    return nn.Sequential(*(_pack(thin) for thin in layer.children()))


@torch.no_grad()
def fold_norms(net: nn.Module) -> None:
    """Fold each norm layer with fixed statistics into the convolution that is registered just before it.

    In all networks of `fastrcnn.backbones`, this is the convolution whose output the norm layer takes.
    """
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in zip(children, children[1:], strict=False):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                _fold_norm(conv, norm)
                setattr(parent, name, nn.Identity())


def _fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # all norm layers of the bodies have statistics
    assert variance is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(  # keeps the memory format
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    if isinstance(conv, FastConv2d):
        conv.norm = ()
