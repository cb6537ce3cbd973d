"""RoI pooling: the paper's max pooling, RoIAlign, and the selection of a pyramid level for each RoI.

Legend: N images; C channels; L feature maps or pyramid levels; R RoIs (batch index, x1, y1, x2, y2) in the
model frame; P bins per side of a pooled RoI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from fastrcnn.align import SAMPLES, roi_align_levels
from fastrcnn.transform import scale_factor


def roi_max_pool(
    features: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float
) -> Tensor:
    """Apply the paper's RoI pooling layer (section 2.1). Gradients go to the maxima (section 2.3).

    RoI corners are scaled and rounded half away from zero. Both ends are inclusive, so an RoI covers at least
    one cell. Bins overlap. A bin outside the map is 0 and passes no gradient. Of equal maxima the first one
    counts.

    torchvision's kernel gives the values of Caffe's roi_pooling_layer.cpp. Its gradient is the same, with one
    exception. An RoI that ends before it starts covers one cell, the cell at its start. Caffe drops the
    gradient of such an RoI.

    On a GPU, the kernel sums the gradient in an order that varies from run to run. Under
    `torch.use_deterministic_algorithms(True)` the order is fixed: RoI by RoI, and bin by bin.

    Args:
        features: (N, C, H, W) float32 or float64.
        rois: (R, 5), model frame.
        output_size: P, or two numbers of bins (along the height, along the width).
        spatial_scale: 1 / stride of the features.

    Returns:
        (R, C, P, P).
    """
    pooled: Tensor
    if features.requires_grad and torch.are_deterministic_algorithms_enabled():
        pooled = _OrderedMaxPool.apply(features, rois, output_size, spatial_scale)
    else:
        pooled = roi_pool(features, rois, output_size, spatial_scale)
    return pooled


class _OrderedMaxPool(torch.autograd.Function):
    """torchvision's RoI max pooling, with a backward pass whose order of additions can be fixed.

    The forward pass is torchvision's kernel. The backward pass adds the gradients with `index_add_`, for
    which torch has a deterministic form.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        rois: Tensor,
        output_size: int | tuple[int, int],
        spatial_scale: float,
    ) -> Tensor:
        height, width = (output_size,) * 2 if isinstance(output_size, int) else output_size
        pooled: Tensor
        pooled, argmax = torch.ops.torchvision.roi_pool(
            features, rois, spatial_scale, height, width
        )
        ctx.save_for_backward(rois, argmax)
        ctx.shape = features.shape
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients  # (R, C, P, P)
        rois, argmax = ctx.saved_tensors  # argmax: int32 cell of the map; -1: bin outside the map
        images, channels, height, width = ctx.shape
        first = torch.arange(channels, device=rois.device) + rois[:, :1].long() * channels  # (R, C)
        cells = first[:, :, None, None] * (height * width) + argmax  # (R, C, P, P) in all maps
        inside = argmax >= 0
        summed = gradient.new_zeros(images * channels * height * width)
        summed.index_add_(
            0, torch.where(inside, cells, 0).flatten(), torch.where(inside, gradient, 0).flatten()
        )
        return summed.view(ctx.shape), None, None, None


def roi_align_pool(
    features: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float
) -> Tensor:
    """Pool RoIs with RoIAlign (He et al. 2017): 2 x 2 bilinear samples per bin, averaged.

    Nothing is rounded. Coordinates are aligned to half pixels (`aligned=True`). This is torchvision's kernel.
    On a CPU, `pool` uses `fastrcnn.align` instead, which gives the same values faster. The arguments are
    those of `roi_max_pool`.
    """
    pooled: Tensor = roi_align(
        features, rois, output_size, spatial_scale, sampling_ratio=SAMPLES, aligned=True
    )
    return pooled


def scale_levels(
    boxes: Tensor, scales: Sequence[int], size: tuple[int, int], *, max_size: int = 2000
) -> Tensor:
    """Select the image pyramid level at which each box's area is nearest to 224^2 (fast-rcnn test.py).

    Args:
        boxes: (R, 4), image frame.
        scales: L lengths in pixels: the image's shorter side at each level.
        size: (height, width) of the image.
        max_size: limit of the longer side at each level, pixels (fast-rcnn multiscale.yml).

    Returns:
        (R,) int64 indices into `scales`. If two levels are equally near, the first.
    """
    factors = boxes.new_tensor([scale_factor(size, scale, max_size) for scale in scales])  # (L,)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (area[:, None] * factors**2 - 224**2).abs().argmin(dim=1)


def fpn_levels(boxes: Tensor, num_levels: int, *, finest_stride: int = 4) -> Tensor:
    """Select the feature pyramid level of each box (Lin et al. 2017, equation 1).

    The paper's level is floor(4 + log2(sqrt(area) / 224)). It is limited to the levels that exist.

    Args:
        boxes: (R, 4), model frame.
        num_levels: L. The finest level comes first.
        finest_stride: stride of the finest level in pixels, a power of two.

    Returns:
        (R,) int64 in 0..num_levels - 1.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1e-6).sqrt()
    first = finest_stride.bit_length() - 1  # log2 of the stride: level 2 of the paper has stride 4
    level = torch.floor(4 + torch.log2(side / 224) + 1e-6) - first
    return level.clamp(0, num_levels - 1).long()


def pool(
    features: Sequence[Tensor], rois: Tensor, strides: Sequence[int], output_size: int, kind: str
) -> Tensor:
    """Pool every RoI from its level of the feature pyramid.

    Args:
        features: L maps (N, C, H_l, W_l), finest first.
        rois: (R, 5), model frame.
        strides: L strides in pixels.
        output_size: P.
        kind: `max` (`roi_max_pool`) or `align` (`roi_align_pool`).

    Returns:
        (R, C, output_size, output_size) float32.
    """
    layer = roi_max_pool if kind == "max" else roi_align_pool
    # The kernels take float32 and float64 only. Under autocast the maps are bfloat16.
    maps = [f if f.dtype == torch.float64 else f.float() for f in features]
    rois = rois.to(maps[0].dtype)
    ordered = torch.are_deterministic_algorithms_enabled()
    gather = kind == "align" and (rois.device.type == "cpu" or ordered)
    if len(maps) == 1 and not gather:
        return layer(maps[0], rois, output_size, 1 / strides[0])
    level = fpn_levels(rois[:, 1:], len(maps), finest_stride=strides[0])
    if gather:
        return roi_align_levels(maps, rois, level, strides, output_size)
    pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], output_size, output_size)
    for index, (feature, stride) in enumerate(zip(maps, strides, strict=True)):
        at_level = (level == index).nonzero()[:, 0]
        # A level without RoIs is pooled too: its gradient is then zero and not missing. DDP needs a gradient.
        values = layer(feature, rois[at_level], output_size, 1 / stride)
        pooled = pooled.index_put((at_level,), values)
    return pooled
