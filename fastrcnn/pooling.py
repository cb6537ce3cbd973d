"""RoI pooling: the paper's max pooling, RoIAlign, and the choice of a pyramid level.

N images, C channels, R RoIs (batch index, x1, y1, x2, y2) in the model frame, P bins a side.
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
    """The paper's RoI pooling layer (section 2.1), with its max-argmax gradient (section 2.3).

    RoI corners are scaled and rounded half away from zero, both ends inclusive, so an RoI covers at
    least one cell; bins overlap; a bin outside the map is 0 and passes no gradient; the first of equal
    maxima wins. torchvision's kernel gives the values of Caffe's roi_pooling_layer.cpp, and its gradient but
    for RoIs that end before they start: they cover the cell they start at, and Caffe drops their gradient.

    On a GPU the kernel's gradient is summed in whatever order its threads arrive. Under
    `torch.use_deterministic_algorithms(True)` it is summed in a fixed one, of RoIs and then bins.

    Args:
        features: (N, C, H, W) float32 or float64.
        rois: (R, 5), model frame.
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
    """torchvision's kernel forward; backward by its argmax, with an addition that has an ordered form."""

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
        rois, argmax = ctx.saved_tensors  # argmax: int32 cell of the map, -1 for a bin outside it
        images, channels, height, width = ctx.shape
        first = torch.arange(channels, device=rois.device) + rois[:, :1].long() * channels  # (R, C)
        cells = first[:, :, None, None] * (height * width) + argmax  # (R, C, P, P) of all maps
        inside = argmax >= 0
        summed = gradient.new_zeros(images * channels * height * width)
        summed.index_add_(
            0, torch.where(inside, cells, 0).flatten(), torch.where(inside, gradient, 0).flatten()
        )
        return summed.view(ctx.shape), None, None, None


def roi_align_pool(
    features: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float
) -> Tensor:
    """RoIAlign (He et al. 2017): no rounding, 2 x 2 bilinear samples a bin, averaged; half-pixel aligned.

    torchvision's kernel; on CPUs `pool` takes `fastrcnn.align` instead, which gives the same faster.
    """
    pooled: Tensor = roi_align(
        features, rois, output_size, spatial_scale, sampling_ratio=SAMPLES, aligned=True
    )
    return pooled


def scale_levels(
    boxes: Tensor, scales: Sequence[int], size: tuple[int, int], *, max_size: int = 2000
) -> Tensor:
    """Level of an image pyramid at which each box's area is nearest 224^2 (fast-rcnn test.py).

    Args:
        boxes: (R, 4), image frame.
        scales: length of the image's shorter side at each level.
        size: (height, width) of the image.
        max_size: longest side at any level (fast-rcnn multiscale.yml).

    Returns:
        (R,) int64 indices into `scales`; the first of equally near ones.
    """
    factors = boxes.new_tensor([scale_factor(size, scale, max_size) for scale in scales])  # (L,)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (area[:, None] * factors**2 - 224**2).abs().argmin(dim=1)


def fpn_levels(boxes: Tensor, num_levels: int, *, finest_stride: int = 4) -> Tensor:
    """Pyramid level of each box: floor(4 + log2(sqrt(area) / 224)) (Lin et al. 2017, equation 1).

    Args:
        boxes: (R, 4), model frame.
        num_levels: of the pyramid, finest first.
        finest_stride: of the first level.

    Returns:
        (R,) int64 in 0..num_levels - 1.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1e-6).sqrt()
    first = finest_stride.bit_length() - 1  # log2: P2 has stride 4
    level = torch.floor(4 + torch.log2(side / 224) + 1e-6) - first
    return level.clamp(0, num_levels - 1).long()


def pool(
    features: Sequence[Tensor], rois: Tensor, strides: Sequence[int], output_size: int, kind: str
) -> Tensor:
    """Pool every RoI from its level.

    Args:
        features: one map (N, C, H_l, W_l) a level, finest first.
        rois: (R, 5), model frame.
        strides: of each level, pixels.
        kind: `max` or `align`.

    Returns:
        (R, C, output_size, output_size) float32.
    """
    layer = roi_max_pool if kind == "max" else roi_align_pool
    # The kernels know float32 and float64; under autocast the maps arrive as bfloat16.
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
        chosen = (level == index).nonzero()[:, 0]
        # An empty level takes part all the same: its gradient is zero, not missing, which DDP needs.
        values = layer(feature, rois[chosen], output_size, 1 / stride)
        pooled = pooled.index_put((chosen,), values)
    return pooled
