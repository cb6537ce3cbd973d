"""RoI pooling: the paper's max pooling, RoIAlign, and the selection of a pyramid level for each RoI.

Legend: N images; C channels; L feature maps or pyramid levels; R RoIs (batch index, x1, y1, x2, y2) in the
model frame; P bins per side of a pooled RoI.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from fastrcnn.align import SAMPLES, roi_align_levels
from fastrcnn.transform import scale_factor
from fastrcnn.upload import send


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
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    *,
    aligned: bool = True,
) -> Tensor:
    """Pool RoIs with RoIAlign (He et al. 2017): 2 x 2 bilinear samples per bin, averaged.

    Nothing is rounded. With `aligned`, coordinates are those of the cells' centres. This is torchvision's
    kernel. On a CPU, `pool` uses `fastrcnn.align` instead, which gives the same values faster. The other
    arguments are those of `roi_max_pool`.
    """
    pooled: Tensor = roi_align(
        features, rois, output_size, spatial_scale, sampling_ratio=SAMPLES, aligned=aligned
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
    numbers = [scale_factor(size, scale, max_size) for scale in scales]
    factors = send(torch.tensor(numbers, dtype=boxes.dtype), boxes.device)  # (L,)
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


def roi_levels(rois: Tensor, strides: Sequence[int]) -> Tensor:
    """Select the map of each RoI (R, 5): (R,) int64 indices into the maps, whose strides are given.

    Several maps may have the same stride. Then only the first of them is used, as in torchvision.
    """
    num_levels = (strides[-1] // strides[0]).bit_length()
    return fpn_levels(rois[:, 1:], num_levels, finest_stride=strides[0])


def count_levels(rois: Sequence[Tensor], strides: Sequence[int]) -> list[list[int]]:
    """Count the RoIs of each map for several sets of RoIs (R, 5). The host waits for a GPU once."""
    maps = torch.arange(len(strides), device=rois[0].device)
    counts = [(roi_levels(one, strides)[:, None] == maps).sum(dim=0) for one in rois]
    numbers: list[list[int]] = torch.stack(counts).tolist()
    return numbers


def gathers_cells(kind: str, device: torch.device) -> bool:
    """Tell whether `pool` uses `roi_align_levels`, which needs no counts of RoIs."""
    return kind == "align" and (
        device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
    )


def pool(
    features: Sequence[Tensor],
    rois: Tensor,
    strides: Sequence[int],
    output_size: int,
    kind: str,
    *,
    aligned: bool = True,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """Pool every RoI from its level of the feature pyramid.

    Args:
        features: L maps (N, C, H_l, W_l), finest first.
        rois: (R, 5), model frame.
        strides: L strides in pixels.
        output_size: P.
        kind: `max` (`roi_max_pool`) or `align` (`roi_align_pool`).
        aligned: for `align`, see `roi_align_pool`.
        counts: L numbers of RoIs, those of `count_levels`. None: they are counted here, and the host waits.

    Returns:
        (R, C, output_size, output_size) float32.
    """
    layer = roi_max_pool if kind == "max" else partial(roi_align_pool, aligned=aligned)
    # The kernels take float32 and float64 only. Under autocast the maps are bfloat16.
    maps = [f if f.dtype == torch.float64 else f.float() for f in features]
    given, rois = rois, rois.to(maps[0].dtype)
    gather = gathers_cells(kind, rois.device)
    if len(maps) == 1 and not gather:
        return layer(maps[0], rois, output_size, 1 / strides[0])
    level = roi_levels(given, strides)
    if gather:
        return roi_align_levels(maps, rois, level, strides, output_size, aligned=aligned)
    if counts is None:
        (counts,) = count_levels([given], strides)
    order = level.argsort(stable=True)
    levels = zip(maps, strides, torch.split(rois[order], list(counts)), strict=True)
    # A level without RoIs is pooled too: its gradient is then zero and not missing. DDP needs a gradient.
    values = torch.cat([layer(f, part, output_size, 1 / stride) for f, stride, part in levels])
    return torch.zeros_like(values).index_put((order,), values)
