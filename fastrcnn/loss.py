"""The training objective: from images and targets to losses. `Objective.forward` shows the steps in order.

Legend: N images; P proposals and G ground-truth boxes of one image; R sampled RoIs of all images, R_fg of
them foreground; K classes; u the true class of an RoI (0 is background); L feature maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrcnn.boxes import encode
from fastrcnn.config import FastRCNNConfig
from fastrcnn.model import FastRCNN
from fastrcnn.rpn import RPNLoss
from fastrcnn.sampling import Candidates, Choice, choose_rois, find_candidates, take
from fastrcnn.transform import (
    PAD_MULTIPLE,
    ImageBatch,
    batch_images,
    random_zoom,
    to_rois,
)
from fastrcnn.upload import send, send_together


class MultiTaskLoss(NamedTuple):
    """Three scalars. total = classification + box_weight * localization."""

    total: Tensor
    classification: Tensor
    localization: Tensor


class Target(NamedTuple):
    """The labels and proposals of one image. Boxes are in the image frame."""

    proposals: Tensor
    """(P, 4) float32. P is 0 if the model has an RPN: then the RPN makes the proposals."""
    gt_boxes: Tensor
    """(G, 4) float32; G may be 0."""
    gt_labels: Tensor
    """(G,) int64, 1..K."""
    ignored: Tensor | None = None
    """(I, 4) float32, regions where neither RoIs nor anchors are sampled; see `sampling.in_ignored`. None:
    there are none."""


class TrainingLoss(NamedTuple):
    """The losses of one forward pass over N images."""

    loss: MultiTaskLoss
    """The head's losses, averaged over the R RoIs."""
    num_rois: int
    """R. Each rank weights its gradients by this number."""
    num_fg: int
    """R_fg, the number of foreground RoIs."""
    rpn: RPNLoss | None = None
    """The RPN's losses, averaged over the N images. None: the model has no RPN."""

    @property
    def total(self) -> Tensor:
        """The whole objective: the head's total plus the RPN's losses."""
        return self.loss.total + sum(self.rpn or ())


def multi_task_loss(
    class_logits: Tensor,
    box_deltas: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    beta: float = 1.0,
    box_weight: float = 1.0,
    foreground: Tensor | None = None,
) -> MultiTaskLoss:
    """Compute the paper's loss (equations 1 to 3), averaged over the RoIs.

    The loss of one RoI is -log p_u + lambda [u >= 1] sum smooth_L1(t_u - v).

    Both parts are divided by R, not by R_fg. So each foreground RoI has the same weight, however many others
    the batch holds. Division by R_fg would give the only foreground RoI of one batch as much weight as a
    hundred foreground RoIs of another batch.

    Args:
        class_logits: (R, K + 1).
        box_deltas: (R, 4 * (K + 1)), t. Only the four values of class u enter the loss.
        labels: (R,) int64, u.
        targets: (R, 4), v, normalised like `box_deltas`. Rows of background RoIs are not read.
        beta: the absolute error at which smooth L1 changes from quadratic to linear. 0 gives the L1 loss.
        box_weight: lambda.
        foreground: (R_fg,) int64, rising: the rows whose label is not 0. None: they are looked for, and the
            host waits for a GPU.

    Returns:
        Three scalars. They are 0 if R is 0.
    """
    num_rois = len(labels)
    if num_rois == 0:
        # Zeros that depend on the outputs: DistributedDataParallel waits for a gradient of each.
        zero = class_logits.sum() * 0 + box_deltas.sum() * 0
        return MultiTaskLoss(zero, zero, zero)
    classification = F.cross_entropy(class_logits, labels)
    fg = labels.nonzero()[:, 0] if foreground is None else foreground
    deltas = box_deltas.reshape(num_rois, box_deltas.shape[1] // 4, 4)[fg, labels[fg]]  # (R_fg, 4)
    if beta == 0:
        error = F.l1_loss(deltas, targets[fg], reduction="sum")
    else:
        error = F.smooth_l1_loss(deltas, targets[fg], beta=beta, reduction="sum")
    localization = error / num_rois
    return MultiTaskLoss(classification + box_weight * localization, classification, localization)


class _Sample(NamedTuple):
    """The RoIs of all images that a step trains on, on the model's device."""

    rois: Tensor
    """(R, 5), batch index first, model frame."""
    labels: Tensor
    """(R,) int64."""
    deltas: Tensor
    """(R, 4) from RoI to ground truth, not normalised. Rows of background RoIs have no meaning."""
    foreground: Tensor
    """(R_fg,) int64, the rows of the foreground RoIs."""


class Objective(nn.Module):
    """The function that training minimises. It holds the model, takes images and targets, and returns losses.

    DistributedDataParallel wraps this module, not the model. The reason: it averages gradients over the
    workers only if the loss comes from a call of its `forward`. Checkpoints save the model, without this
    module.
    """

    def __init__(self, model: FastRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        seeds: Sequence[int] | None = None,
    ) -> TrainingLoss:
        """Sample RoIs of each image, run the network on all of them, and return the losses.

        Args:
            images: N tensors (H, W, 3) uint8 RGB.
            targets: N targets, in the order of the images.
            seeds: N seeds, one for each image. A seed decides the image's scale and its sampled anchors and
                RoIs, on every rank alike. None: 0, 1, ..., N - 1.
        """
        seeds = range(len(images)) if seeds is None else seeds
        batch = self._batch(images, seeds)
        features = self.model.features(batch.images)  # L maps (N, C, H_l, W_l)
        proposals, rpn_loss = self._propose(features, batch, targets, seeds)  # N of (P, 4)
        sample = self._sample(proposals, targets, seeds, batch)  # R RoIs of all images
        outputs = self.model.classify(features, sample.rois)  # (R, K + 1), (R, 4 * (K + 1))
        loss = self._head_loss(*outputs, sample)
        return TrainingLoss(loss, len(sample.labels), len(sample.foreground), rpn_loss)

    def _batch(self, images: Sequence[Tensor], seeds: Sequence[int]) -> ImageBatch:
        config = self.model.config
        scales = [_random_scale(config, seed) for seed in seeds]
        return batch_images(
            images, scales, config.max_size, self.model.device, resize=config.resize
        )

    def _propose(
        self,
        features: list[Tensor],
        batch: ImageBatch,
        targets: Sequence[Target],
        seeds: Sequence[int],
    ) -> tuple[list[Tensor], RPNLoss | None]:
        """Return N tensors of proposals (P, 4), image frame, and the RPN's losses.

        Without an RPN, the proposals are those of the targets and there are no losses (None). With an RPN, it
        makes the proposals. RPN and head are trained by approximate joint training (Ren et al. 2015,
        section 3.2): no gradient flows through the boxes.
        """
        rpn = self.model.rpn
        if rpn is None:
            return [target.proposals for target in targets], None
        predictions = rpn(features, batch.scaled)
        moved = zip(_sent(targets, self.model.device), batch.factors, strict=True)
        gt_boxes, ignored = [], []  # model frame
        for target, factor in moved:
            regions = target.ignored
            gt_boxes.append(target.gt_boxes * factor)
            ignored.append(None if regions is None else regions * factor)
        generators = [_generator(seed, "anchors") for seed in seeds]
        losses = rpn.losses(predictions, gt_boxes, generators, ignored)
        proposed = zip(rpn.propose(predictions), batch.factors, strict=True)
        return [image.boxes / factor for image, factor in proposed], losses

    def _sample(
        self,
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        seeds: Sequence[int],
        batch: ImageBatch,
    ) -> _Sample:
        """Sample RoIs of each image and concatenate them, in the model frame."""
        config, device = self.model.config, self.model.device
        if self.model.rpn is not None:
            targets = _sent(targets, device)
        inputs = zip(proposals, targets, strict=True)
        candidates = [_candidates_of_image(boxes, target, config) for boxes, target in inputs]
        # The kinds of all images go to the CPU at once, and the indices of the sample back at once.
        kinds = torch.cat([one.kinds for one in candidates]).cpu()
        counts = [len(one.kinds) for one in candidates]
        images = zip(torch.split(kinds, counts), seeds, strict=True)
        drawn = [_choose(own, seed, config) for own, seed in images]
        indices = send_together([choice.indices for choice in drawn], candidates[0].kinds.device)
        samples = [
            take(one, index, len(choice.foreground))
            for one, index, choice in zip(candidates, indices, drawn, strict=True)
        ]
        labels = torch.cat([sample.labels for sample in samples])
        deltas = torch.cat([encode(sample.rois, sample.gt_boxes) for sample in samples])
        return _Sample(
            rois=to_rois([sample.rois for sample in samples], batch.factors),
            labels=send(labels, device),
            deltas=send(deltas, device),
            foreground=send(_foreground(drawn), device),
        )

    def _head_loss(
        self, class_logits: Tensor, box_deltas: Tensor, sample: _Sample
    ) -> MultiTaskLoss:
        """Compute the head's losses for the sample. Outputs and targets are normalised deltas here."""
        config, labels = self.model.config, sample.labels
        mean, std = self.model.head.delta_mean, self.model.head.delta_std  # (K + 1, 4)
        return multi_task_loss(
            class_logits,
            (box_deltas - mean.flatten()) / std.flatten(),
            labels,
            (sample.deltas - mean[labels]) / std[labels],
            beta=config.beta,
            box_weight=config.box_weight,
            foreground=sample.foreground,
        )


def training_loss(
    model: FastRCNN,
    images: Sequence[Tensor],
    targets: Sequence[Target],
    seeds: Sequence[int] | None = None,
) -> TrainingLoss:
    """Compute the losses of a model on labelled images. `Objective.forward` explains the arguments."""
    loss: TrainingLoss = Objective(model)(images, targets, seeds)
    return loss


def _random_scale(config: FastRCNNConfig, seed: int) -> int:
    """Draw one of `train_scales`, or one of the pyramid's levels (fast-rcnn minibatch.py).

    A factor of `crop_jitter` below 1 makes it smaller. One above 1 does not: `fastrcnn.augmentation` has
    cropped the image, so that the window fills the frame.
    """
    scales = config.train_scales or config.scales
    scale = scales[0]
    if len(scales) > 1:
        scale = scales[int(torch.randint(len(scales), (), generator=_generator(seed, "scale")))]
    if config.crop_jitter is None:
        return scale
    smallest = min(scale, PAD_MULTIPLE)  # the last map keeps a cell
    return max(round(scale * min(random_zoom(config.crop_jitter, seed), 1.0)), smallest)


def _sent(targets: Sequence[Target], device: torch.device) -> list[Target]:
    """Copy boxes, labels and ignored regions of all images to a device, without a wait."""
    regions = [t.gt_boxes[:0] if t.ignored is None else t.ignored for t in targets]
    moved = zip(
        targets,
        send_together([target.gt_boxes for target in targets], device),
        send_together([target.gt_labels for target in targets], device),
        send_together(regions, device),
        strict=True,
    )
    return [
        Target(target.proposals, boxes, labels, None if target.ignored is None else ignored)
        for target, boxes, labels, ignored in moved
    ]


def _candidates_of_image(proposals: Tensor, target: Target, config: FastRCNNConfig) -> Candidates:
    """Find the candidates of one image with the numbers of the config. Boxes are in the image frame."""
    return find_candidates(
        proposals,
        target.gt_boxes,
        target.gt_labels,
        fg_iou=config.fg_iou,
        bg_iou=config.bg_iou,
        ignored=target.ignored,
    )


def _choose(kinds: Tensor, seed: int, config: FastRCNNConfig) -> Choice:
    """Draw the RoIs of one image with its generator."""
    return choose_rois(kinds, config.rois_per_image, config.fg_fraction, _generator(seed, "rois"))


def _foreground(drawn: Sequence[Choice]) -> Tensor:
    """List the rows of the foreground RoIs among those of all images, on the CPU."""
    firsts = accumulate((len(choice.indices) for choice in drawn), initial=0)
    pairs = zip(drawn, firsts, strict=False)
    return torch.cat([torch.arange(len(choice.foreground)) + first for choice, first in pairs])


def _generator(seed: int, purpose: Literal["rois", "scale", "anchors"]) -> torch.Generator:
    """Make a random generator. Each purpose has its offset, so an image's purposes draw different numbers."""
    offset = {"rois": 0, "scale": 1, "anchors": 2}[purpose]
    return torch.Generator().manual_seed(seed + offset)
