"""Sampling of the RoIs that a training step uses, and of their labels (the paper's hierarchical sampling).

Legend: P proposals, G ground-truth boxes and I ignored regions of one image; R sampled RoIs. Boxes are
(x1, y1, x2, y2) float32, all in the same frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from fastrcnn.upload import send


class RoISample(NamedTuple):
    """The sampled RoIs of one image. Foreground comes first, then background."""

    rois: Tensor
    """(R, 4) boxes."""
    labels: Tensor
    """(R,) int64. 0 is background."""
    gt_boxes: Tensor
    """(R, 4): for each RoI the ground-truth box with the highest IoU. If the image has no ground truth, it is
    the RoI itself. The loss does not read the rows of background RoIs."""


class Candidates(NamedTuple):
    """The boxes of one image that may be sampled: its P proposals, then its G ground-truth boxes."""

    boxes: Tensor
    """(P + G, 4)."""
    labels: Tensor
    """(P + G,) int64, the label of the ground-truth box with the highest IoU."""
    gt_boxes: Tensor
    """(P + G, 4), that ground-truth box. If the image has none, the candidate itself."""
    kinds: Tensor
    """(P + G,) int8: `FOREGROUND`, `BACKGROUND` or neither (-1)."""


class Choice(NamedTuple):
    """Indices of the candidates or anchors that are drawn, on the CPU."""

    foreground: Tensor
    """(F,) int64."""
    background: Tensor
    """(B,) int64."""

    @property
    def indices(self) -> Tensor:
        """(F + B,): foreground first."""
        return torch.cat(self)


def sample_rois(
    proposals: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    *,
    num_rois: int = 64,
    fg_fraction: float = 0.25,
    fg_iou: float = 0.5,
    bg_iou: tuple[float, float] = (0.1, 0.5),
    ignored: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> RoISample:
    """Sample RoIs of one image without replacement (paper, section 2.3; fast-rcnn minibatch.py).

    The ground-truth boxes are candidates too, beside the proposals. A candidate is foreground if its IoU with
    some ground-truth box is at least `fg_iou`. It is background if its highest IoU lies in [low, high) of
    `bg_iou`. All others are never sampled. Nor is a candidate that lies in an ignored region (`in_ignored`).

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
        ignored: (I, 4) float32, regions of which nobody knows what they show. None: there are none.
        generator: a generator on the CPU, so that every device draws the same sample.

    Example:
        With the defaults, 100 foreground and 1000 background candidates give 16 + 48 RoIs. 3 and 1000 give
        3 + 61. 100 and 0 give 16 + 0.
    """
    candidates = find_candidates(
        proposals, gt_boxes, gt_labels, fg_iou=fg_iou, bg_iou=bg_iou, ignored=ignored
    )
    choice = choose_rois(candidates.kinds.cpu(), num_rois, fg_fraction, generator)
    return take(candidates, send(choice.indices, proposals.device), len(choice.foreground))


def find_candidates(
    proposals: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    *,
    fg_iou: float,
    bg_iou: tuple[float, float],
    ignored: Tensor | None = None,
) -> Candidates:
    """Tell which boxes of an image may be sampled, and as what. The host does not wait for a GPU.

    The arguments are those of `sample_rois`, all on one device.
    """
    boxes = torch.cat([proposals, gt_boxes])  # (P + G, 4)
    if len(gt_boxes):
        iou, match = box_iou(boxes, gt_boxes).max(dim=1)
        labels, matched_boxes = gt_labels[match], gt_boxes[match]
    else:
        iou = boxes.new_zeros(len(boxes))
        labels, matched_boxes = gt_labels.new_zeros(len(boxes)), boxes
    fg_mask, bg_mask = iou >= fg_iou, (iou >= bg_iou[0]) & (iou < bg_iou[1])
    if ignored is not None and len(ignored):
        usable = ~in_ignored(boxes, ignored, iou)
        fg_mask, bg_mask = fg_mask & usable, bg_mask & usable
    kinds = fg_mask.to(torch.int8) * (FOREGROUND + 1) + bg_mask.to(torch.int8) * (BACKGROUND + 1)
    return Candidates(boxes, labels, matched_boxes, kinds - 1)


def choose_rois(
    kinds: Tensor, num_rois: int, fg_fraction: float, generator: torch.Generator | None
) -> Choice:
    """Draw the RoIs of one image, as `sample_rois` says, from the kinds (P + G,) of its candidates.

    Args:
        kinds: on the CPU.
    """
    num_fg = fg_fraction * num_rois
    if num_fg < 1:
        # RoI-centric sampling: 1 with probability num_fg, else 0.
        num_fg = float(torch.rand((), generator=generator) < num_fg)
    return choose(kinds, num_rois, round(num_fg), generator)


def choose(
    kinds: Tensor, count: int, most_foreground: int, generator: torch.Generator | None
) -> Choice:
    """Draw foreground, then fill up with background.

    Args:
        kinds: (n,) on the CPU: `FOREGROUND`, `BACKGROUND`, or -1 for what is not drawn.
        count: the largest number of indices.
        most_foreground: the largest number of them that are foreground.
    """
    fg = draw((kinds == FOREGROUND).nonzero()[:, 0], most_foreground, generator)
    bg = draw((kinds == BACKGROUND).nonzero()[:, 0], count - len(fg), generator)
    return Choice(fg, bg)


def take(candidates: Candidates, index: Tensor, num_fg: int) -> RoISample:
    """Give the sample of the drawn candidates.

    Args:
        index: (R,) int64, on the device of the candidates; foreground first.
        num_fg: number of foreground RoIs.
    """
    labels = candidates.labels[index]
    labels[num_fg:] = 0
    return RoISample(candidates.boxes[index], labels, candidates.gt_boxes[index])


FOREGROUND, BACKGROUND = 1, 0
"""Kinds of candidates and of anchors."""
IGNORED_COVER = 0.5
"""Share of a box's area inside an ignored region from which on the box is not sampled."""
OBJECT_IOU = 0.5
"""A box with this IoU with an object shows that object, also inside an ignored region."""
_REGIONS_AT_ONCE = 32
"""Ignored regions that are compared with all boxes at once. It bounds the memory for 200,000 anchors."""


def in_ignored(boxes: Tensor, ignored: Tensor, iou: Tensor) -> Tensor:
    """Tell which boxes must not be sampled, because nobody knows what they show.

    The ignored regions are COCO's crowds, labels that were left out, and objects of classes that the run does
    not train. The rule is that of evaluation: COCO divides the intersection by the area of the box alone
    (cocoeval, iscrowd).

    Args:
        boxes: (P, 4), RoIs or anchors.
        ignored: (I, 4), same frame. I may be 0.
        iou: (P,), the highest IoU of each box with an object.

    Returns:
        (P,) bool. True: at least half of the box lies in one ignored region, and no object has IoU >= 0.5
        with it.
    """
    covered = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    for first in range(0, len(ignored), _REGIONS_AT_ONCE):
        regions = ignored[first : first + _REGIONS_AT_ONCE]
        low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])  # (P, I, 2)
        high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
        inside = (high - low).clamp(min=0).prod(dim=2)  # (P, I)
        covered |= (inside >= IGNORED_COVER * areas[:, None]).any(dim=1) & (areas > 0)
    return covered & (iou < OBJECT_IOU)


def draw(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw at most `count` of `indices` (N,), on the CPU, without replacement."""
    return indices[torch.randperm(len(indices), generator=generator)[:count]]
