"""Hierarchical mini-batch sampling: which proposals of an image are trained on, and as what.

P proposals, G ground-truth boxes, R sampled RoIs. Boxes are xyxy float32, any one frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou


class RoISample(NamedTuple):
    """Foreground first, then background."""

    rois: Tensor
    """(R, 4) boxes."""
    labels: Tensor
    """(R,) int64, 0 is background."""
    gt_boxes: Tensor
    """(R, 4) the ground truth of highest IoU; for background a regression target that is never used
    (the RoI itself where the image has no ground truth)."""


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

    Ground truth joins the proposals. Foreground is IoU >= `fg_iou`, background IoU in [low, high) of
    `bg_iou`. round(fg_fraction * num_rois) foreground at most; where there are fewer, background fills
    up; where background runs short the sample shrinks, foreground is not raised. Where that share is
    less than one RoI it is drawn with that chance: `num_rois=1` from each of 128 images is how R-CNN and
    SPPnet train (32 of 128 foreground), the paper's RoI-centric sampling.

    Args:
        proposals: (P, 4) float32.
        gt_boxes: (G, 4) float32; G may be 0.
        gt_labels: (G,) int64, 1..K.
        generator: a CPU generator; the draw is the same on every device.

    Example:
        100 foreground and 1000 background proposals give 16 + 48; 3 give 3 + 61; without background, 16.
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
        # RoI-centric: this image's one RoI is foreground as often as one of 1 / fg_fraction.
        num_fg = float(torch.rand((), generator=generator) < num_fg)
    bg = ((iou >= bg_iou[0]) & (iou < bg_iou[1])).nonzero()[:, 0]
    fg = draw(fg, round(num_fg), generator)
    bg = draw(bg, num_rois - len(fg), generator)
    keep = torch.cat([fg, bg])
    labels = labels[keep]
    labels[len(fg) :] = 0
    return RoISample(candidates[keep], labels, matched[keep])


def draw(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """At most `count` of `indices` (N,), without replacement; the same on every device."""
    order = torch.randperm(len(indices), generator=generator)[:count]
    return indices[order.to(indices.device)]
