"""A region proposal network on the detector's feature maps (Ren et al. 2015), built on torchvision's classes.

Legend: N images; L feature maps; A anchors of one image over all maps; G ground-truth boxes and P proposals
    of
one image. All boxes are in the model frame.

Head, suppression and numbers are torchvision's. Four things differ:
- Anchors are placed by the backbone's strides.
- Only cells inside the image have anchors, not the padding. So the proposals of an image do not depend on the
  other images of its batch.
- Anchors are sampled with one random generator per image.
- The losses are divided by the number of anchors that the config asks for (detectron2's rule). So they add up
  correctly over several passes and workers.
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
from fastrcnn.suppression import suppress, true_indices

BETA = 1 / 9
"""`beta` of the smooth L1 loss (torchvision rpn.py)."""
GT_AT_ONCE = 32
"""Objects whose IoUs with all anchors are in memory together. 32 take 35 MB with the 270,000 anchors of
resnet50_fpn at 800 x 1333."""


class Prediction(NamedTuple):
    """The network's output for the anchors of one image."""

    anchors: Tensor
    """(A, 4), finest map first. Within a map the order is row, column, ratio, side."""
    objectness: Tensor
    """(A,) logits."""
    deltas: Tensor
    """(A, 4), from anchor to object."""
    level_counts: list[int]
    """L numbers of anchors, one for each map. Their sum is A."""
    size: tuple[int, int]
    """(height, width) of the image without padding, model frame."""


class Proposed(NamedTuple):
    """The proposals of one image, best first. No gradient flows through them."""

    boxes: Tensor
    """(P, 4)."""
    scores: Tensor
    """(P,) from 0 to 1, highest first."""


class RPNLoss(NamedTuple):
    """Two scalars, each the mean over the images."""

    objectness: Tensor
    box: Tensor


class Anchors(AnchorGenerator):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's generator with two changes: anchors are not rounded, and the strides are given.

    Rounding would change the shape of small anchors.

    Args:
        sides: L tuples: the square root of the area of each anchor, pixels.
        ratios: height / width of the anchors of every map.
        strides: L strides in pixels.
    """

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
        """Compute the anchors of one cell, centred at 0: (ratios * sides, 4)."""
        side = torch.tensor(scales, dtype=dtype, device=device)
        root = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        width, height = (side / root).flatten(), (side * root).flatten()
        return torch.stack([-width, -height, width, height], dim=1) / 2

    def on_maps(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """Compute the anchors of all cells of each map.

        Args:
            shapes: L pairs (height, width) in cells.

        Returns:
            L tensors (cells * anchors of a cell, 4) float32.
        """
        self.set_cell_anchors(torch.float32, device)
        anchors: list[Tensor] = self.grid_anchors(shapes, [(s, s) for s in self.strides])
        return anchors


class RPN(RegionProposalNetwork):  # type: ignore[misc]  # torchvision is untyped
    """The region proposal network: it turns feature maps into proposals, and in training into losses.

    Args:
        config: the numbers. If it has no sides or ratios, the standard ones are used.
        channels: number of channels of each feature map.
        strides: L strides of the maps in pixels, finest first.

    Raises:
        ValueError: the config has sides for another number of maps than L.
    """

    def __init__(self, config: RPNConfig, channels: int, strides: tuple[int, ...]) -> None:
        sides = config.sides or standard_sides(strides)
        ratios = config.ratios or STANDARD_RATIOS
        if len(sides) != len(strides):
            raise ValueError(
                f"rpn.sides has sides for {len(sides)} maps: expected {len(strides)}, one for each"
                " feature map of the backbone"
            )
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
        """Predict objectness and deltas for every anchor of every image.

        Args:
            features: L maps (N, C, H_l, W_l) of a padded batch, finest first.
            sizes: N pairs (height, width) without padding, model frame.

        Returns:
            N predictions.
        """
        # Under autocast the outputs are bfloat16. Many scores would be equal, and their order arbitrary.
        logits, deltas = ([m.float() for m in maps] for maps in self.head(list(features)))
        return [self._select_image(logits, deltas, n, size) for n, size in enumerate(sizes)]

    def _select_image(
        self, logits: list[Tensor], deltas: list[Tensor], index: int, size: tuple[int, int]
    ) -> Prediction:
        """Take the outputs of one image from those of the batch. Cells of the padding are left out."""
        shapes = [
            (min(m.shape[2], -(-size[0] // stride)), min(m.shape[3], -(-size[1] // stride)))
            for m, stride in zip(logits, self.anchor_generator.strides, strict=True)
        ]
        anchors = self.anchor_generator.on_maps(shapes, logits[0].device)
        image_logits, image_deltas = [], []
        for (rows, columns), logit, delta in zip(shapes, logits, deltas, strict=True):
            image_logits.append(logit[index, :, :rows, :columns].permute(1, 2, 0).flatten())
            # The channels are ordered anchor by anchor, with four deltas for each.
            cropped = delta[index, :, :rows, :columns].reshape(-1, 4, rows, columns)
            image_deltas.append(cropped.permute(2, 3, 0, 1).reshape(-1, 4))
        return Prediction(
            anchors=torch.cat(anchors),
            objectness=torch.cat(image_logits),
            deltas=torch.cat(image_deltas),
            level_counts=[len(level) for level in image_logits],
            size=size,
        )

    def propose(self, predictions: Sequence[Prediction]) -> list[Proposed]:
        """Select the best boxes of each image. The limits differ between training and eval mode.

        The steps (torchvision rpn.py): take the best anchors of each map, decode, clip, remove small boxes,
        suppress near-duplicates within each map, keep the best of all maps.

        Returns:
            N `Proposed`, model frame.
        """
        best = [self._best(one) for one in predictions]
        sizes = [len(boxes) for boxes, _, _ in best]
        boxes, logits, levels = (torch.cat(parts) for parts in zip(*best, strict=True))
        large = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= self.min_size
        index, counts = true_indices(large, sizes)
        boxes_of = torch.split(boxes[index], counts)
        scores_of = torch.split(logits[index].sigmoid(), counts)
        levels_of = torch.split(levels[index], counts)
        kept = suppress(boxes_of, scores_of, levels_of, self.nms_thresh)
        most = self.post_nms_top_n()
        return [
            Proposed(boxes[indices[:most]], scores[indices[:most]])
            for boxes, scores, indices in zip(boxes_of, scores_of, kept, strict=True)
        ]

    def _best(self, one: Prediction) -> tuple[Tensor, Tensor, Tensor]:
        """Return clipped boxes (B, 4), logits (B,) and levels (B,) of the B best anchors of one image.

        Each map gives its best ones, up to the limit of the config.
        """
        logits = one.objectness.detach()
        most = self.pre_nms_top_n()
        maps = torch.split(logits, one.level_counts)
        ranked = [values.topk(min(most, len(values))) for values in maps]
        firsts = [0, *accumulate(one.level_counts)]
        pairs = zip(ranked, firsts, strict=False)
        index = torch.cat([top.indices + first for top, first in pairs])
        boxes = decode(one.anchors[index], one.deltas.detach()[index])[:, 0]
        levels = [torch.full_like(top.indices, level) for level, top in enumerate(ranked)]
        values = torch.cat([top.values for top in ranked])
        return clip(boxes, one.size), values, torch.cat(levels)

    def losses(
        self,
        predictions: Sequence[Prediction],
        gt_boxes: Sequence[Tensor],
        generators: Sequence[torch.Generator],
    ) -> RPNLoss:
        """Compute the objectness loss and the box loss on a sample of each image's anchors.

        Args:
            predictions: N predictions.
            gt_boxes: N tensors (G, 4), model frame. G may be 0. Then all anchors are background.
            generators: N generators on the CPU. So the sample of an image depends neither on the device nor
                on the other images.
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
        """Compute the two losses of one image, divided by the number of anchors that the config asks for."""
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
    """Label each anchor as foreground, background or neither, in bounded memory.

    The rules are those of torchvision's Matcher with low-quality matches (_utils.py). An anchor is foreground
    if its IoU with some object is at least `fg_iou`. It is also foreground if it is the nearest anchor of an
    object: no anchor has a higher IoU with that object, and the IoU is above 0. Any other anchor is
    background if its IoU with every object is below `bg_iou`.

    Args:
        anchors: (A, 4).
        gt_boxes: (G, 4), same frame. G may be 0.

    Returns:
        labels: (A,) int64: 1 foreground, 0 background, -1 neither.
        matches: (A,) int64: index of the object with the highest IoU; 0 if there is no object.
    """
    best = anchors.new_zeros(len(anchors))
    matches = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    nearest = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    for first in range(0, len(gt_boxes), GT_AT_ONCE):
        iou = box_iou(gt_boxes[first : first + GT_AT_ONCE], anchors)  # (<= GT_AT_ONCE, A)
        highest_iou, index = iou.max(dim=0)  # (A,) over the objects of this round
        matches = torch.where(highest_iou > best, index + first, matches)
        best = torch.maximum(highest_iou, best)
        highest_of_object = iou.max(dim=1, keepdim=True).values  # (<= GT_AT_ONCE, 1)
        nearest |= ((iou == highest_of_object) & (highest_of_object > 0)).any(dim=0)
    labels = torch.full_like(matches, -1)
    labels[best < bg_iou] = 0
    labels[(best >= fg_iou) | nearest] = 1
    return labels, matches
