"""The objective, and the one place that knows the order of the training steps.

R RoIs over all images of a step, K classes, u the true class of an RoI (0: background).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrcnn.boxes import encode
from fastrcnn.config import FastRCNNConfig
from fastrcnn.rpn import RPN, RPNLoss
from fastrcnn.sampling import RoISample, sample_rois
from fastrcnn.transform import ImageBatch, batch_images, to_rois


class MultiTaskLoss(NamedTuple):
    """Scalars. total = classification + box_weight * localization."""

    total: Tensor
    classification: Tensor
    localization: Tensor


class Target(NamedTuple):
    """What training knows of one image; boxes in the image frame."""

    proposals: Tensor
    """(P, 4) float32; P = 0 where the model makes its own."""
    gt_boxes: Tensor
    """(G, 4) float32; G may be 0."""
    gt_labels: Tensor
    """(G,) int64, 1..K."""


class TrainingLoss(NamedTuple):
    loss: MultiTaskLoss
    num_rois: int
    """RoIs that the loss was averaged over: ranks weigh their gradients by it."""
    num_fg: int
    rpn: RPNLoss | None = None
    """Where the model has an RPN; averaged over the images."""

    @property
    def total(self) -> Tensor:
        """The whole objective, as one worker that sees all images minimises it."""
        return self.loss.total + sum(self.rpn or ())


def multi_task_loss(
    class_logits: Tensor,
    box_deltas: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    beta: float = 1.0,
    box_weight: float = 1.0,
) -> MultiTaskLoss:
    """Paper, equations 1 to 3: -log p_u + lambda [u >= 1] sum smooth_L1(t_u - v), averaged over the RoIs.

    Args:
        class_logits: (R, K + 1).
        box_deltas: (R, 4 * (K + 1)); only the four of class u carry a loss.
        labels: (R,) int64.
        targets: (R, 4), on the same scale as `box_deltas`; ignored for background.
        beta: where smooth L1 turns from square to linear; 0 is L1.
        box_weight: lambda.

    Both parts are divided by R, not by the number of foreground RoIs: an image with one object then pulls
    on the boxes as often as that object is sampled, not as hard as a crowd. R = 0 gives 0.
    """
    num_rois = len(labels)
    if num_rois == 0:
        zero = class_logits.sum() * 0 + box_deltas.sum() * 0
        return MultiTaskLoss(zero, zero, zero)
    classification = F.cross_entropy(class_logits, labels)
    fg = labels.nonzero()[:, 0]
    own = box_deltas.reshape(num_rois, box_deltas.shape[1] // 4, 4)[fg, labels[fg]]  # (F, 4)
    if beta == 0:
        error = F.l1_loss(own, targets[fg], reduction="sum")
    else:
        error = F.smooth_l1_loss(own, targets[fg], beta=beta, reduction="sum")
    localization = error / num_rois
    return MultiTaskLoss(classification + box_weight * localization, classification, localization)


def training_loss(
    model: nn.Module,
    images: Sequence[Tensor],
    targets: Sequence[Target],
    *,
    config: FastRCNNConfig,
    delta_mean: Tensor,
    delta_std: Tensor,
    seeds: Sequence[int] | None = None,
) -> TrainingLoss:
    """Sample RoIs of each image, run the model over all of them, and give the losses.

    Of a model with an RPN, RoIs are sampled from what it proposes, and its own two losses come along.

    Args:
        model: a `FastRCNN`, or a wrapper of one: it is *called*, since DDP synchronises gradients only
            through its own forward.
        images: N tensors (H, W, 3) uint8 RGB.
        targets: of the same images.
        config: of the model.
        delta_mean, delta_std: (K + 1, 4), the model's normalisation; the loss is taken on normalised deltas.
        seeds: one an image, for its sample and its scale: the same image and seed give the same RoIs on
            any rank.
    """
    device = delta_mean.device
    seeds = range(len(images)) if seeds is None else seeds
    scales = [_random_scale(config, seed) for seed in seeds]
    batch = batch_images(images, scales, config.max_size, device)
    samples: list[RoISample] = []
    rpn_losses: list[RPNLoss] = []

    def sample(proposals: Sequence[Tensor]) -> Tensor:
        given = zip(proposals, targets, seeds, strict=True)
        samples.extend(_sample(*each, config) for each in given)
        return to_rois([own.rois for own in samples], batch.factors)

    def choose(rpn: RPN, features: list[Tensor]) -> Tensor:
        proposals, losses = _own_proposals(rpn, features, batch, targets, seeds)
        rpn_losses.append(losses)
        return sample(proposals)

    rois = choose if config.rpn else sample([target.proposals for target in targets])
    class_logits, box_deltas = model(batch.images, rois)
    labels = torch.cat([own.labels for own in samples]).to(device)
    raw = torch.cat([encode(own.rois, own.gt_boxes) for own in samples]).to(device)
    loss = multi_task_loss(
        class_logits,
        (box_deltas - delta_mean.flatten()) / delta_std.flatten(),
        labels,
        (raw - delta_mean[labels]) / delta_std[labels],
        beta=config.beta,
        box_weight=config.box_weight,
    )
    num_fg = sum(int((own.labels > 0).sum()) for own in samples)
    return TrainingLoss(loss, len(labels), num_fg, rpn_losses[0] if rpn_losses else None)


def _own_proposals(
    rpn: RPN,
    features: list[Tensor],
    batch: ImageBatch,
    targets: Sequence[Target],
    seeds: Sequence[int],
) -> tuple[list[Tensor], RPNLoss]:
    """The RPN's proposals (P, 4) of each image, image frame, and its losses: approximate joint training (Ren
    et al. 2015, section 3.2), no gradient through the boxes."""
    predictions = rpn(features, batch.scaled)
    gt_boxes = [
        target.gt_boxes.to(factor) * factor
        for target, factor in zip(targets, batch.factors, strict=True)
    ]
    generators = [
        torch.Generator().manual_seed(seed + 2) for seed in seeds
    ]  # not the RoIs' numbers
    losses = rpn.losses(predictions, gt_boxes, generators)
    proposed = zip(rpn.propose(predictions), batch.factors, strict=True)
    return [proposals.boxes / factor for proposals, factor in proposed], losses


def _random_scale(config: FastRCNNConfig, seed: int) -> int:
    """One of `train_scales`, or of an image pyramid's levels, an image and step (fast-rcnn minibatch.py)."""
    scales = config.train_scales or config.scales
    if len(scales) == 1:
        return scales[0]
    generator = torch.Generator().manual_seed(seed + 1)  # not the sample's numbers
    return scales[int(torch.randint(len(scales), (), generator=generator))]


def _sample(proposals: Tensor, target: Target, seed: int, config: FastRCNNConfig) -> RoISample:
    return sample_rois(
        proposals,
        target.gt_boxes.to(proposals.device),
        target.gt_labels.to(proposals.device),
        num_rois=config.rois_per_image,
        fg_fraction=config.fg_fraction,
        fg_iou=config.fg_iou,
        bg_iou=config.bg_iou,
        generator=torch.Generator().manual_seed(seed),
    )


def delta_statistics(
    targets: Sequence[Target],
    num_classes: int,
    fg_iou: float = 0.5,
    *,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """Per-class mean and population deviation of the deltas of all foreground proposals (fast-rcnn roidb.py).

    The ground truth boxes themselves are counted, as there; a class with no or only perfect proposals would
    get deviation 0, hence NaN targets, in the reference code; here it gets that of all classes together.
    `class_agnostic`: every class has the numbers of all together, since one output serves them all.

    Returns:
        delta_mean, delta_std: (K + 1, 4) float32; background has mean 0, deviation 1.
    """
    labels, deltas = _foreground_deltas(targets, fg_iou)
    mean, std = torch.zeros(num_classes + 1, 4), torch.ones(num_classes + 1, 4)
    if len(deltas) == 0:
        return mean, std
    overall = deltas.std(dim=0, unbiased=False)
    overall = torch.where(overall > 0, overall, torch.ones(4, dtype=overall.dtype))
    if class_agnostic:
        rows = (num_classes + 1, 1)
        return deltas.mean(dim=0).float().repeat(rows), overall.float().repeat(rows)
    for label in range(1, num_classes + 1):
        own = deltas[labels == label]
        if len(own) == 0:
            std[label] = overall.float()
            continue
        deviation = own.std(dim=0, unbiased=False)
        mean[label] = own.mean(dim=0).float()
        std[label] = torch.where(deviation > 1e-6, deviation, overall).float()
    return mean, std


def _foreground_deltas(targets: Sequence[Target], fg_iou: float) -> tuple[Tensor, Tensor]:
    labels, deltas = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, 4, dtype=torch.float64)]
    for target in targets:
        fg = sample_rois(
            target.proposals,
            target.gt_boxes,
            target.gt_labels,
            num_rois=len(target.proposals) + len(target.gt_boxes),
            fg_fraction=1.0,
            fg_iou=fg_iou,
            bg_iou=(fg_iou, fg_iou),
            generator=torch.Generator().manual_seed(0),
        )
        labels.append(fg.labels)
        deltas.append(encode(fg.rois.double(), fg.gt_boxes.double()))
    return torch.cat(labels), torch.cat(deltas)
