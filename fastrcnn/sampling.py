"""Sampling of the RoIs that a training step uses, and of their labels (the paper's hierarchical sampling).

Legend: P proposals and G ground-truth boxes of one image; R sampled RoIs. Boxes are (x1, y1, x2, y2) float32,
all in the same frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou


class RoISample(NamedTuple):
    """The sampled RoIs of one image. Foreground comes first, then background."""

    rois: Tensor
    """(R, 4) boxes."""
    labels: Tensor
    """(R,) int64. 0 is background."""
    gt_boxes: Tensor
    """(R, 4): for each RoI the ground-truth box with the highest IoU. If the image has no ground truth, it is
    the RoI itself. The loss does not read the rows of background RoIs."""


def sample_rois(
    proposals: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    *,
    num_rois: int = 64,
    fg_fraction: float = 0.25,
    fg_iou: float = 0.5,
    bg_iou: tuple[float, float] = (0.1, 0.5),
    generator: torch.Generator | None = None,
) -> RoISample:
    """Sample RoIs of one image without replacement (paper, section 2.3; fast-rcnn minibatch.py).

    The ground-truth boxes are candidates too, beside the proposals. A candidate is foreground if its IoU with
    some ground-truth box is at least `fg_iou`. It is background if its highest IoU lies in [low, high) of
    `bg_iou`. All others are never sampled.

    At most round(fg_fraction * num_rois) RoIs are foreground. If there are fewer, more background is sampled.
    If there is too little background, the sample is smaller; foreground does not fill it up.

    If fg_fraction * num_rois is less than 1, it is the probability that one RoI is foreground. With
    `num_rois=1` and 128 images, 32 of 128 RoIs are foreground on average. R-CNN and SPPnet train so; the
    paper calls it RoI-centric sampling.

    Args:
        proposals: (P, 4) float32.
        gt_boxes: (G, 4) float32. G may be 0.
        gt_labels: (G,) int64, 1..K.
        num_rois: the largest R.
        generator: a generator on the CPU, so that every device draws the same sample.

    Example:
        With the defaults, 100 foreground and 1000 background candidates give 16 + 48 RoIs. 3 and 1000 give
        3 + 61. 100 and 0 give 16 + 0.
    """
    candidates = torch.cat([proposals, gt_boxes])  # (P + G, 4)
    if len(gt_boxes):
        iou, match = box_iou(candidates, gt_boxes).max(dim=1)
        labels, matched = gt_labels[match], gt_boxes[match]
    else:
        iou = candidates.new_zeros(len(candidates))
        labels, matched = gt_labels.new_zeros(len(candidates)), candidates
    fg = (iou >= fg_iou).nonzero()[:, 0]
    num_fg = fg_fraction * num_rois
    if num_fg < 1:
        # RoI-centric sampling: 1 with probability num_fg, else 0.
        num_fg = float(torch.rand((), generator=generator) < num_fg)
    bg = ((iou >= bg_iou[0]) & (iou < bg_iou[1])).nonzero()[:, 0]
    fg = draw(fg, round(num_fg), generator)
    bg = draw(bg, num_rois - len(fg), generator)
    keep = torch.cat([fg, bg])
    labels = labels[keep]
    labels[len(fg) :] = 0
    return RoISample(candidates[keep], labels, matched[keep])


def draw(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw at most `count` of `indices` (N,) without replacement. The result is the same on every device."""
    order = torch.randperm(len(indices), generator=generator)[:count]
    return indices[order.to(indices.device)]
