"""Box geometry: the paper's regression targets, clipping and flipping.

N boxes, C classes. Boxes are (x1, y1, x2, y2), float32, absolute pixels, continuous edges: width is
x2 - x1, with no "+1" anywhere. Deltas are (dx, dy, dw, dh) of Girshick et al. 2014, appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)
"""Upper clamp of dw and dh: a 16 px proposal grows to 1000 px at most, the longest side of the paper's
input (torchvision and detectron2 use the same number). Keeps exp() finite on untrained weights."""


def encode(
    proposals: Tensor, gt_boxes: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Regression targets that take each proposal to its ground truth; `decode` inverts it.

    Args:
        proposals: (N, 4) with positive width and height.
        gt_boxes: (N, 4), same frame, with positive width and height.
        weights: multiply dx, dy, dw, dh.

    Returns:
        (N, 4) deltas: ((gx - px) / pw, (gy - py) / ph, ln(gw / pw), ln(gh / ph)), where x, y are centres.
    """
    size = proposals[:, 2:] - proposals[:, :2]  # (N, 2) width, height
    gt_size = gt_boxes[:, 2:] - gt_boxes[:, :2]
    centre = proposals[:, :2] + 0.5 * size
    gt_centre = gt_boxes[:, :2] + 0.5 * gt_size
    deltas = torch.cat([(gt_centre - centre) / size, torch.log(gt_size / size)], dim=1)
    return deltas * deltas.new_tensor(weights)


def decode(
    proposals: Tensor, deltas: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Apply each class's deltas to each proposal.

    Args:
        proposals: (N, 4).
        deltas: (N, 4 * C), class by class; dw and dh are clamped at `MAX_LOG_RATIO`.
        weights: those given to `encode`.

    Returns:
        (N, C, 4) boxes in the proposals' frame, not clipped.
    """
    deltas = deltas.reshape(len(proposals), deltas.shape[1] // 4, 4)  # (N, C, 4)
    deltas = deltas / deltas.new_tensor(weights)
    size = (proposals[:, 2:] - proposals[:, :2])[:, None]  # (N, 1, 2)
    centre = proposals[:, None, :2] + 0.5 * size + deltas[..., :2] * size  # (N, C, 2)
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_RATIO)) * size
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int] | Tensor) -> Tensor:
    """Clip boxes (..., 4) to an image of `size` (height, width), or each to its own of `size` (..., 2): x in
    [0, width], y in [0, height]."""
    if isinstance(size, Tensor):
        limit = size.to(boxes)[..., [1, 0, 1, 0]]
    else:
        height, width = size
        limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def flip(boxes: Tensor, length: float, *, vertically: bool = False) -> Tensor:
    """Mirror boxes (..., 4) left to right in an image `length` pixels wide, or upside down in one `length`
    pixels high; twice is the identity."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    if vertically:
        return torch.stack([x1, length - y2, x2, length - y1], dim=-1)
    return torch.stack([length - x2, y1, length - x1, y2], dim=-1)


def transpose(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) of an image whose rows and columns are swapped; twice is the identity."""
    return boxes[..., [1, 0, 3, 2]]
