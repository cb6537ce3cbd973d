"""Box geometry: the paper's regression targets, clipping and flipping.

Legend: N boxes; C classes. Boxes are (x1, y1, x2, y2), float32, in absolute pixels with continuous edges: the
width is x2 - x1, without the "+1" of older code. Deltas are (dx, dy, dw, dh) as in Girshick et al. 2014,
appendix C.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)
"""Upper limit of dw and dh. A 16 px proposal then grows to at most 1000 px, the longest side of the paper's
input. torchvision and detectron2 use the same number. It keeps exp() finite for untrained weights."""


def encode(
    proposals: Tensor, gt_boxes: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Compute the deltas that turn each proposal into its ground-truth box. `decode` is the inverse.

    Args:
        proposals: (N, 4) with positive width and height.
        gt_boxes: (N, 4), same frame, with positive width and height.
        weights: factors of dx, dy, dw, dh.

    Returns:
        (N, 4) deltas: ((gx - px) / pw, (gy - py) / ph, ln(gw / pw), ln(gh / ph)), multiplied by `weights`.
        p is the proposal, g the ground truth; x, y are centres.
    """
    size = proposals[:, 2:] - proposals[:, :2]  # (N, 2) width, height
    gt_size = gt_boxes[:, 2:] - gt_boxes[:, :2]
    centre = proposals[:, :2] + 0.5 * size
    gt_centre = gt_boxes[:, :2] + 0.5 * gt_size
    deltas = torch.cat([(gt_centre - centre) / size, torch.log(gt_size / size)], dim=1)
    return _with_weights(operator.mul, deltas, weights)


def decode(
    proposals: Tensor, deltas: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Apply each class's deltas to each proposal.

    Args:
        proposals: (N, 4).
        deltas: (N, 4 * C), class by class. dw and dh are limited to `MAX_LOG_RATIO`.
        weights: the weights given to `encode`.

    Returns:
        (N, C, 4) boxes in the proposals' frame, not clipped.
    """
    deltas = deltas.reshape(len(proposals), deltas.shape[1] // 4, 4)  # (N, C, 4)
    deltas = _with_weights(operator.truediv, deltas, weights)
    size = (proposals[:, 2:] - proposals[:, :2])[:, None]  # (N, 1, 2)
    centre = proposals[:, None, :2] + 0.5 * size + deltas[..., :2] * size  # (N, C, 2)
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_RATIO)) * size
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int] | Tensor) -> Tensor:
    """Clip boxes to their image: x to [0, width], y to [0, height].

    Args:
        boxes: (..., 4).
        size: (height, width) of the one image; or a tensor (..., 2) with the (height, width) for each box.
    """
    if isinstance(size, Tensor):
        corner = size.to(boxes).flip(-1)  # (..., 2) width, height
        return torch.minimum(boxes.clamp(min=0), torch.cat([corner, corner], dim=-1))
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], dim=-1).flatten(-2)


def flip(boxes: Tensor, length: float, *, vertically: bool = False) -> Tensor:
    """Mirror boxes (..., 4) left to right, or top to bottom if `vertically`. Mirroring twice is the identity.

    Args:
        length: width of the image in pixels; its height if `vertically`.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    if vertically:
        return torch.stack([x1, length - y2, x2, length - y1], dim=-1)
    return torch.stack([length - x2, y1, length - x1, y2], dim=-1)


def transpose(boxes: Tensor) -> Tensor:
    """Swap x and y of boxes (..., 4): those of an image whose rows and columns are swapped."""
    return boxes.reshape(*boxes.shape[:-1], 2, 2).flip(-1).flatten(-2)


def _with_weights(
    apply: Callable[[Tensor, float], Tensor], deltas: Tensor, weights: Sequence[float]
) -> Tensor:
    """Multiply or divide deltas (..., 4) by four numbers, which are never copied to a GPU."""
    if all(weight == 1 for weight in weights):
        return deltas
    columns = zip(deltas.unbind(-1), weights, strict=True)
    return torch.stack([apply(column, weight) for column, weight in columns], dim=-1)
