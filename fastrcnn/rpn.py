"""A region proposal network on the detector's own feature maps (Ren et al. 2015), of torchvision's parts.

N images, L feature maps, A anchors of an image over all maps, G ground-truth boxes, P proposals. All boxes in
the model frame.

Torchvision's head, suppression and numbers are kept. What is ours: anchors lie at the strides the backbone
says; only cells inside the image count, not its padding, so an image's proposals do not hang on its company;
anchors are sampled with a generator of the image's own; its losses are divided by the anchors that were asked
for (detectron2's rule), so they add up over passes and workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou

from fastrcnn.boxes import clip, decode, encode
from fastrcnn.config import STANDARD_RATIOS, RPNConfig, standard_sides
from fastrcnn.sampling import draw
from fastrcnn.suppression import choose, suppress

BETA = 1 / 9
"""Of the smooth L1 (TV rpn.py)."""
GT_AT_ONCE = 32
"""Objects whose IoU with all anchors is held at once: 35 MB with the 270,000 of resnet50_fpn, 800 x 1333."""


class Prediction(NamedTuple):
    """What the network says of one image's anchors."""

    anchors: Tensor
    """(A, 4), finest map first, there by row, column, ratio, side."""
    objectness: Tensor
    """(A,) logits."""
    deltas: Tensor
    """(A, 4), from anchor to object."""
    level_counts: list[int]
    """Anchors of each map; their sum is A."""
    size: tuple[int, int]
    """(height, width) of the image."""


class Proposed(NamedTuple):
    """Proposals of one image, best first; no gradient flows through them."""

    boxes: Tensor
    """(P, 4)."""
    scores: Tensor
    """(P,) 0 to 1, falling."""


class RPNLoss(NamedTuple):
    """Scalars, means over images."""

    objectness: Tensor
    box: Tensor


class Anchors(AnchorGenerator):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's, but not rounded (it takes small ones their shape), and at strides that are known."""

    def __init__(
        self,
        sides: Sequence[Sequence[float]],
        ratios: Sequence[float],
        strides: Sequence[int],
    ) -> None:
        super().__init__(sizes=tuple(sides), aspect_ratios=(tuple(ratios),) * len(sides))
        self.strides = tuple(strides)

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - torchvision's signature
    ) -> Tensor:
        """Of one cell, centred at 0: (ratios * sides, 4)."""
        side = torch.tensor(scales, dtype=dtype, device=device)
        root = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        width, height = (side / root).flatten(), (side * root).flatten()
        return torch.stack([-width, -height, width, height], dim=1) / 2

    def of(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """For each map, of (height, width) cells: (cells * anchors of a cell, 4) float32."""
        self.set_cell_anchors(torch.float32, device)
        anchors: list[Tensor] = self.grid_anchors(shapes, [(s, s) for s in self.strides])
        return anchors


class RPN(RegionProposalNetwork):  # type: ignore[misc]  # torchvision is untyped
    """Feature maps to proposals, and to the losses of training.

    Args:
        config: its sides and ratios, or the standard ones where it has none.
        channels: of every feature map.
        strides: of the maps, finest first.

    Raises:
        ValueError: sides for another number of maps.
    """

    def __init__(self, config: RPNConfig, channels: int, strides: tuple[int, ...]) -> None:
        sides = config.sides or standard_sides(strides)
        ratios = config.ratios or STANDARD_RATIOS
        if len(sides) != len(strides):
            raise ValueError(f"rpn: sides of {len(sides)} maps, the backbone has {len(strides)}")
        super().__init__(
            Anchors(sides, ratios, strides),
            RPNHead(channels, len(sides[0]) * len(ratios)),
            fg_iou_thresh=config.fg_iou,
            bg_iou_thresh=config.bg_iou,
            batch_size_per_image=config.anchors_per_image,
            positive_fraction=config.fg_fraction,
            pre_nms_top_n={"training": config.pre_nms_train, "testing": config.pre_nms_test},
            post_nms_top_n={
                "training": config.max_proposals_train,
                "testing": config.max_proposals_test,
            },
            nms_thresh=config.nms,
        )
        self.config = config

    def forward(
        self, features: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Look at every anchor of every image.

        Args:
            features: L maps (N, C, H_l, W_l) of a padded batch, finest first.
            sizes: (height, width) of each image, without its padding.
        """
        # Under autocast bfloat16: of 1000 equal-looking scores the order would be chance.
        logits, deltas = ([m.float() for m in maps] for maps in self.head(list(features)))
        return [self._of_image(logits, deltas, n, size) for n, size in enumerate(sizes)]

    def _of_image(
        self, logits: list[Tensor], deltas: list[Tensor], index: int, size: tuple[int, int]
    ) -> Prediction:
        shapes = [
            (min(m.shape[2], -(-size[0] // stride)), min(m.shape[3], -(-size[1] // stride)))
            for m, stride in zip(logits, self.anchor_generator.strides, strict=True)
        ]
        anchors = self.anchor_generator.of(shapes, logits[0].device)
        own_logits, own_deltas = [], []
        for (rows, columns), logit, delta in zip(shapes, logits, deltas, strict=True):
            own_logits.append(logit[index, :, :rows, :columns].permute(1, 2, 0).flatten())
            # channels are anchor by anchor, four deltas each
            cropped = delta[index, :, :rows, :columns].reshape(-1, 4, rows, columns)
            own_deltas.append(cropped.permute(2, 3, 0, 1).reshape(-1, 4))
        counts = [len(own) for own in own_logits]
        return Prediction(
            torch.cat(anchors), torch.cat(own_logits), torch.cat(own_deltas), counts, size
        )

    def propose(self, predictions: Sequence[Prediction]) -> list[Proposed]:
        """The best boxes of each image, in training as many as training wants.

        Best of each map, clipped, near-duplicates suppressed map by map, best of all (TV rpn.py).
        """
        own = [self._best(one) for one in predictions]
        sizes = [len(boxes) for boxes, _, _ in own]
        boxes, logits, levels = (torch.cat(parts) for parts in zip(*own, strict=True))
        large = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= self.min_size
        index, counts = choose(large, sizes)
        scores = logits[index].sigmoid()
        found = torch.split(boxes[index], counts)
        ranked = torch.split(scores, counts)
        kept = suppress(found, ranked, torch.split(levels[index], counts), self.nms_thresh)
        most = self.post_nms_top_n()
        return [
            Proposed(boxes[chosen[:most]], scores[chosen[:most]])
            for boxes, scores, chosen in zip(found, ranked, kept, strict=True)
        ]

    def _best(self, one: Prediction) -> tuple[Tensor, Tensor, Tensor]:
        """Clipped boxes (B, 4), logits (B,) and maps (B,) of the best anchors of each map."""
        logits = one.objectness.detach()
        most = self.pre_nms_top_n()
        maps = torch.split(logits, one.level_counts)
        ranked = [own.topk(min(most, len(own))) for own in maps]
        firsts = [0, *accumulate(one.level_counts)]
        pairs = zip(ranked, firsts, strict=False)
        chosen = torch.cat([own.indices + first for own, first in pairs])
        boxes = decode(one.anchors[chosen], one.deltas.detach()[chosen])[:, 0]
        levels = [torch.full_like(own.indices, level) for level, own in enumerate(ranked)]
        values = torch.cat([own.values for own in ranked])
        return clip(boxes, one.size), values, torch.cat(levels)

    def losses(
        self,
        predictions: Sequence[Prediction],
        gt_boxes: Sequence[Tensor],
        generators: Sequence[torch.Generator],
    ) -> RPNLoss:
        """Object or not, and where, on a sample of each image's anchors.

        Args:
            predictions: of N images.
            gt_boxes: N tensors (G, 4); G may be 0, then all anchors are background.
            generators: N, on the CPU; the same one gives the same sample on any device and in any company.
        """
        parts = [
            self._losses_of_image(*each)
            for each in zip(predictions, gt_boxes, generators, strict=True)
        ]
        objectness, box = torch.stack([torch.stack(part) for part in parts]).mean(dim=0)
        return RPNLoss(objectness, box)

    def _losses_of_image(
        self, one: Prediction, gt_boxes: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        labels, matches = match_anchors(one.anchors, gt_boxes, config.fg_iou, config.bg_iou)
        wanted = config.anchors_per_image
        fg = draw((labels == 1).nonzero()[:, 0], int(wanted * config.fg_fraction), generator)
        bg = draw((labels == 0).nonzero()[:, 0], wanted - len(fg), generator)
        sampled = torch.cat([fg, bg])
        objectness = F.binary_cross_entropy_with_logits(
            one.objectness[sampled], labels[sampled].to(one.objectness), reduction="sum"
        )
        targets = encode(one.anchors[fg], gt_boxes[matches[fg]])
        box = F.smooth_l1_loss(one.deltas[fg], targets, beta=BETA, reduction="sum")
        return objectness / wanted, box / wanted


def match_anchors(
    anchors: Tensor, gt_boxes: Tensor, fg_iou: float, bg_iou: float
) -> tuple[Tensor, Tensor]:
    """Which anchors are objects (TV _utils.py, Matcher with low-quality matches), in bounded memory.

    Foreground is an anchor of IoU >= `fg_iou` with some object, or of an object's highest IoU, where that is
    above 0; background one whose IoU is below `bg_iou` with all.

    Args:
        anchors: (A, 4).
        gt_boxes: (G, 4); G may be 0.

    Returns:
        labels (A,) int64: 1 foreground, 0 background, -1 neither; matches (A,) int64: the object of highest
        IoU, 0 where there is none.
    """
    best = anchors.new_zeros(len(anchors))
    matches = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    nearest = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    for first in range(0, len(gt_boxes), GT_AT_ONCE):
        iou = box_iou(gt_boxes[first : first + GT_AT_ONCE], anchors)  # (<= GT_AT_ONCE, A)
        own, index = iou.max(dim=0)
        matches = torch.where(own > best, index + first, matches)
        best = torch.maximum(own, best)
        highest = iou.max(dim=1, keepdim=True).values
        nearest |= ((iou == highest) & (highest > 0)).any(dim=0)
    labels = torch.full_like(matches, -1)
    labels[best < bg_iou] = 0
    labels[(best >= fg_iou) | nearest] = 1
    return labels, matches
