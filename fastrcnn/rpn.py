"""A region proposal network on the detector's feature maps (Ren et al. 2015), built on torchvision's classes.

Legend: N images; L feature maps; A anchors of one image over all maps; G ground-truth boxes and P proposals
of one image. All boxes are in the model frame.

Head, suppression and numbers are torchvision's. Four things differ:
- Anchors are placed by the backbone's strides.
- Only cells inside the image have anchors, not the padding. So the proposals of an image do not depend on the
  other images of its batch. (`RPNConfig.torchvision_anchors` gives torchvision's anchors instead.)
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
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou

from fastrcnn.anchors import Anchors
from fastrcnn.boxes import clip, decode, encode
from fastrcnn.config import STANDARD_RATIOS, RPNConfig, standard_sides
from fastrcnn.sampling import BACKGROUND, FOREGROUND, choose, in_ignored
from fastrcnn.suppression import suppress, true_indices
from fastrcnn.transform import padded_length
from fastrcnn.upload import send_together

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


class ProposedBoxes(NamedTuple):
    """The proposals of one image, best first. No gradient flows through them."""

    boxes: Tensor
    """(P, 4)."""
    scores: Tensor
    """(P,) from 0 to 1, highest first."""


class RPNLoss(NamedTuple):
    """Two scalars, each the mean over the images."""

    objectness: Tensor
    box: Tensor


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
        strides = config.map_strides(strides)
        sides = config.sides or standard_sides(strides)
        ratios = config.ratios or STANDARD_RATIOS
        if len(sides) != len(strides):
            raise ValueError(
                f"rpn.sides has sides for {len(sides)} maps: expected {len(strides)}, one for each"
                " feature map of the backbone"
            )
        super().__init__(
            Anchors(sides, ratios, strides, rounded=config.torchvision_anchors),
            RPNHead(channels, len(sides[0]) * len(ratios), conv_depth=config.convs),
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
        maps = list(features)
        if self.config.extra_level:
            maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2))
        # Under autocast the outputs are bfloat16. Many scores would be equal, and their order arbitrary.
        logits, deltas = ([m.float() for m in outputs] for outputs in self.head(maps))
        return [self._select_image(logits, deltas, n, size) for n, size in enumerate(sizes)]

    def _select_image(
        self, logits: list[Tensor], deltas: list[Tensor], index: int, size: tuple[int, int]
    ) -> Prediction:
        """Take the outputs of one image from those of the batch.

        Cells of the padding are left out, unless the config asks for torchvision's anchors.
        """
        spacings = None
        # torchvision's anchors are also in the padding of the image itself, but not in that of its batch.
        extent = size
        if self.config.torchvision_anchors:
            extent = (padded_length(size[0]), padded_length(size[1]))
        shapes = [
            (min(m.shape[2], -(-extent[0] // stride)), min(m.shape[3], -(-extent[1] // stride)))
            for m, stride in zip(logits, self.anchor_generator.strides, strict=True)
        ]
        if self.config.torchvision_anchors:
            spacings = [(extent[0] // rows, extent[1] // columns) for rows, columns in shapes]
        anchors = self.anchor_generator.on_maps(shapes, logits[0].device, spacings)
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

    def propose(self, predictions: Sequence[Prediction]) -> list[ProposedBoxes]:
        """Select the best boxes of each image. The limits differ between training and eval mode.

        The steps (torchvision rpn.py): take the best anchors of each map, decode, clip, remove small boxes,
        suppress near-duplicates within each map, keep the best of all maps.

        Returns:
            N `ProposedBoxes`, model frame.
        """
        best = [self._best_anchors(prediction) for prediction in predictions]
        sizes = [len(boxes) for boxes, _, _ in best]
        boxes, logits, levels = (torch.cat(parts) for parts in zip(*best, strict=True))
        keep = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= self.min_size
        if self.config.score_threshold and not self.training:
            keep &= logits.sigmoid() >= self.config.score_threshold
        index, counts = true_indices(keep, sizes)
        boxes_of = torch.split(boxes[index], counts)
        scores_of = torch.split(logits[index].sigmoid(), counts)
        levels_of = torch.split(levels[index], counts)
        kept = suppress(boxes_of, scores_of, levels_of, self.nms_thresh)
        limit = self.post_nms_top_n()
        return [
            ProposedBoxes(boxes[indices[:limit]], scores[indices[:limit]])
            for boxes, scores, indices in zip(boxes_of, scores_of, kept, strict=True)
        ]

    def _best_anchors(self, prediction: Prediction) -> tuple[Tensor, Tensor, Tensor]:
        """Return clipped boxes (B, 4), logits (B,) and levels (B,) of the B best anchors of one image.

        Each map gives its best ones, up to the limit of the config.
        """
        logits = prediction.objectness.detach()
        limit = self.pre_nms_top_n()
        maps = torch.split(logits, prediction.level_counts)
        ranked = [values.topk(min(limit, len(values))) for values in maps]
        firsts = [0, *accumulate(prediction.level_counts)]
        pairs = zip(ranked, firsts, strict=False)
        index = torch.cat([top.indices + first for top, first in pairs])
        boxes = decode(prediction.anchors[index], prediction.deltas.detach()[index])[:, 0]
        levels = [torch.full_like(top.indices, level) for level, top in enumerate(ranked)]
        values = torch.cat([top.values for top in ranked])
        return clip(boxes, prediction.size), values, torch.cat(levels)

    def losses(
        self,
        predictions: Sequence[Prediction],
        gt_boxes: Sequence[Tensor],
        generators: Sequence[torch.Generator],
        ignored: Sequence[Tensor | None] | None = None,
    ) -> RPNLoss:
        """Compute the objectness loss and the box loss on a sample of each image's anchors.

        Args:
            predictions: N predictions.
            gt_boxes: N tensors (G, 4), model frame. G may be 0. Then all anchors are background.
            generators: N generators on the CPU. So the sample of an image depends neither on the device nor
                on the other images.
            ignored: N tensors (I, 4), model frame: regions without sampled anchors. None: there are none.
        """
        config, count = self.config, len(predictions)
        regions = [None] * count if ignored is None else ignored
        matched = [
            match_anchors(prediction.anchors, boxes, config.fg_iou, config.bg_iou, region)
            for prediction, boxes, region in zip(predictions, gt_boxes, regions, strict=True)
        ]
        # The labels of all images go to the CPU at once, and the indices of the sample back at once.
        labels = torch.cat([labels for labels, _ in matched]).to(torch.int8).cpu()
        images = zip(torch.split(labels, [len(own) for own, _ in matched]), generators, strict=True)
        most_fg = int(config.anchors_per_image * config.fg_fraction)
        drawn = [choose(own, config.anchors_per_image, most_fg, one) for own, one in images]
        sampled = send_together([choice.indices for choice in drawn], matched[0][0].device)
        parts = [
            self._losses_of_image(predictions[n], gt_boxes[n], *matched[n], sampled[n], len(fg))
            for n, (fg, _) in enumerate(drawn)
        ]
        objectness, box = torch.stack([torch.stack(part) for part in parts]).mean(dim=0)
        return RPNLoss(objectness, box)

    def _losses_of_image(
        self,
        prediction: Prediction,
        gt_boxes: Tensor,
        labels: Tensor,
        matches: Tensor,
        sampled: Tensor,
        num_fg: int,
    ) -> tuple[Tensor, Tensor]:
        """Compute the two losses of one image, divided by the number of anchors that the config asks for.

        Args:
            labels, matches: (A,) int64, see `match_anchors`.
            sampled: indices of the sampled anchors, first the `num_fg` of the foreground.
        """
        num_anchors, fg = self.config.anchors_per_image, sampled[:num_fg]
        objectness = F.binary_cross_entropy_with_logits(
            prediction.objectness[sampled],
            labels[sampled].to(prediction.objectness),
            reduction="sum",
        )
        targets = encode(prediction.anchors[fg], gt_boxes[matches[fg]])
        box = F.smooth_l1_loss(prediction.deltas[fg], targets, beta=BETA, reduction="sum")
        return objectness / num_anchors, box / num_anchors


def match_anchors(
    anchors: Tensor,
    gt_boxes: Tensor,
    fg_iou: float,
    bg_iou: float,
    ignored: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Label each anchor as foreground, background or neither, in bounded memory.

    The rules are those of torchvision's Matcher with low-quality matches (_utils.py). An anchor is foreground
    if its IoU with some object is at least `fg_iou`. It is also foreground if it is the nearest anchor of an
    object: no anchor has a higher IoU with that object, and the IoU is above 0. Any other anchor is
    background if its IoU with every object is below `bg_iou`.

    Args:
        anchors: (A, 4).
        gt_boxes: (G, 4), same frame. G may be 0.
        ignored: (I, 4), same frame. An anchor in one of these regions is neither foreground nor background
            (`sampling.in_ignored`).

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
    labels[best < bg_iou] = BACKGROUND
    labels[(best >= fg_iou) | nearest] = FOREGROUND
    if ignored is not None and len(ignored):
        labels[in_ignored(anchors, ignored, best)] = -1
    return labels, matches
