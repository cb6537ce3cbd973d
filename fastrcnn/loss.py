"""The objective, and the one place that knows the order of the training steps.

N images, P proposals and G ground-truth boxes of one image, R sampled RoIs of all images, K classes, u the
true class of an RoI (0: background), L feature maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastrcnn.boxes import encode
from fastrcnn.config import FastRCNNConfig
from fastrcnn.model import FastRCNN
from fastrcnn.rpn import RPNLoss
from fastrcnn.sampling import RoISample, sample_rois
from fastrcnn.transform import ImageBatch, batch_images, to_rois


class MultiTaskLoss(NamedTuple):
    """Scalars. total = classification + box_weight * localization."""

    total: Tensor
    classification: Tensor
    localization: Tensor


class Target(NamedTuple):
    """The labels and proposals of one image. Boxes are in the image frame."""

    proposals: Tensor
    """(P, 4) float32; P = 0 where the model has an RPN, which makes the proposals."""
    gt_boxes: Tensor
    """(G, 4) float32; G may be 0."""
    gt_labels: Tensor
    """(G,) int64, 1..K."""


class TrainingLoss(NamedTuple):
    """The losses of one pass over N images."""

    loss: MultiTaskLoss
    """The head's losses, averaged over the RoIs."""
    num_rois: int
    """R. Ranks weigh their gradients by it."""
    num_fg: int
    """RoIs that are foreground."""
    rpn: RPNLoss | None = None
    """The RPN's losses, averaged over the images. None: the model has no RPN."""

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
    """-log p_u + lambda [u >= 1] sum smooth_L1(t_u - v), averaged over the RoIs (paper, equations 1 to 3).

    Both parts are divided by R, not by the number of foreground RoIs F. So an image with one object pulls on
    the boxes as often as that object is sampled, not as hard as an image with a crowd.

    Args:
        class_logits: (R, K + 1).
        box_deltas: (R, 4 * (K + 1)); only the four of class u carry a loss.
        labels: (R,) int64, u.
        targets: (R, 4), v, on the same scale as `box_deltas`; ignored for background.
        beta: where smooth L1 turns from square to linear; 0 is L1.
        box_weight: lambda.

    Returns:
        Three scalars; 0 where R is 0.
    """
    num_rois = len(labels)
    if num_rois == 0:
        zero = class_logits.sum() * 0 + box_deltas.sum() * 0
        return MultiTaskLoss(zero, zero, zero)
    classification = F.cross_entropy(class_logits, labels)
    fg = labels.nonzero()[:, 0]
    deltas = box_deltas.reshape(num_rois, box_deltas.shape[1] // 4, 4)[fg, labels[fg]]  # (F, 4)
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
    """(R, 4) from RoI to ground truth, not normalised; meaningless for background."""
    num_fg: int


class Objective(nn.Module):
    """What training minimises: images and targets in, losses out. It holds the model.

    DistributedDataParallel wraps this module, not the model: it averages gradients over the workers only when
    the loss comes from a call of its forward. Checkpoints save the model.
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
        """Sample RoIs of each image, run the network on all of them, and give the losses.

        Args:
            images: N tensors (H, W, 3) uint8 RGB.
            targets: N, in the same order.
            seeds: N, for what is drawn for each image: its scale, its anchors and its RoIs. An image with the
                same seed gets the same ones on every rank. None: 0, 1, ..., N - 1.
        """
        seeds = range(len(images)) if seeds is None else seeds
        batch = self._batch(images, seeds)
        features = self.model.features(batch.images)  # L maps (N, C, H_l, W_l)
        proposals, rpn_loss = self._propose(features, batch, targets, seeds)  # N of (P, 4)
        sample = self._sample(proposals, targets, seeds, batch)  # R RoIs of all images
        outputs = self.model.classify(features, sample.rois)  # (R, K + 1), (R, 4 * (K + 1))
        loss = self._head_loss(*outputs, sample)
        return TrainingLoss(loss, len(sample.labels), sample.num_fg, rpn_loss)

    def _batch(self, images: Sequence[Tensor], seeds: Sequence[int]) -> ImageBatch:
        config = self.model.config
        scales = [_random_scale(config, seed) for seed in seeds]
        return batch_images(images, scales, config.max_size, self.model.device)

    def _propose(
        self,
        features: list[Tensor],
        batch: ImageBatch,
        targets: Sequence[Target],
        seeds: Sequence[int],
    ) -> tuple[list[Tensor], RPNLoss | None]:
        """Give N proposals (P, 4), image frame: the targets', or with an RPN its proposals, and its losses.

        RPN and head are trained together, approximately (Ren et al. 2015, section 3.2): no gradient flows
        through the boxes.
        """
        rpn = self.model.rpn
        if rpn is None:
            return [target.proposals for target in targets], None
        predictions = rpn(features, batch.scaled)
        pairs = zip(targets, batch.factors, strict=True)
        gt_boxes = [target.gt_boxes.to(factor) * factor for target, factor in pairs]  # model frame
        generators = [_generator(seed, "anchors") for seed in seeds]
        losses = rpn.losses(predictions, gt_boxes, generators)
        proposed = zip(rpn.propose(predictions), batch.factors, strict=True)
        return [one.boxes / factor for one, factor in proposed], losses

    def _sample(
        self,
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        seeds: Sequence[int],
        batch: ImageBatch,
    ) -> _Sample:
        config = self.model.config
        each = zip(proposals, targets, seeds, strict=True)
        samples = [_sample_image(boxes, target, seed, config) for boxes, target, seed in each]
        labels = torch.cat([one.labels for one in samples])
        deltas = torch.cat([encode(one.rois, one.gt_boxes) for one in samples])
        return _Sample(
            rois=to_rois([one.rois for one in samples], batch.factors),
            labels=labels.to(self.model.device),
            deltas=deltas.to(self.model.device),
            num_fg=int((labels > 0).sum()),
        )

    def _head_loss(
        self, class_logits: Tensor, box_deltas: Tensor, sample: _Sample
    ) -> MultiTaskLoss:
        """Compare the head's outputs with the sample; boxes are compared by normalised deltas."""
        config, labels = self.model.config, sample.labels
        mean, std = self.model.head.delta_mean, self.model.head.delta_std  # (K + 1, 4)
        return multi_task_loss(
            class_logits,
            (box_deltas - mean.flatten()) / std.flatten(),
            labels,
            (sample.deltas - mean[labels]) / std[labels],
            beta=config.beta,
            box_weight=config.box_weight,
        )


def training_loss(
    model: FastRCNN,
    images: Sequence[Tensor],
    targets: Sequence[Target],
    seeds: Sequence[int] | None = None,
) -> TrainingLoss:
    """Give the losses of a model on labelled images. The arguments are those of `Objective.forward`."""
    loss: TrainingLoss = Objective(model)(images, targets, seeds)
    return loss


def _random_scale(config: FastRCNNConfig, seed: int) -> int:
    """Draw one of `train_scales`, or of a pyramid's levels, per image and step (fast-rcnn minibatch.py)."""
    scales = config.train_scales or config.scales
    if len(scales) == 1:
        return scales[0]
    return scales[int(torch.randint(len(scales), (), generator=_generator(seed, "scale")))]


def _sample_image(
    proposals: Tensor, target: Target, seed: int, config: FastRCNNConfig
) -> RoISample:
    return sample_rois(
        proposals,
        target.gt_boxes.to(proposals.device),
        target.gt_labels.to(proposals.device),
        num_rois=config.rois_per_image,
        fg_fraction=config.fg_fraction,
        fg_iou=config.fg_iou,
        bg_iou=config.bg_iou,
        generator=_generator(seed, "rois"),
    )


def _generator(seed: int, purpose: Literal["rois", "scale", "anchors"]) -> torch.Generator:
    """Make a generator for one purpose, so that no two of them draw the same numbers for an image."""
    offset = {"rois": 0, "scale": 1, "anchors": 2}[purpose]
    return torch.Generator().manual_seed(seed + offset)


def delta_statistics(
    targets: Sequence[Target],
    num_classes: int,
    fg_iou: float = 0.5,
    *,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean and population deviation, per class, of the deltas of foreground proposals (fast-rcnn roidb.py).

    Ground-truth boxes are counted among the proposals, as there. A class without foreground, or with perfect
    proposals only, would have deviation 0 and so NaN targets in the reference code. Here it gets the
    deviation over all classes.

    Args:
        targets: all of the training set.
        num_classes: K.
        fg_iou: IoU from which a proposal is foreground.
        class_agnostic: every class gets the numbers over all classes, since one output serves them all.

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
        of_class = deltas[labels == label]
        if len(of_class) == 0:
            std[label] = overall.float()
            continue
        deviation = of_class.std(dim=0, unbiased=False)
        mean[label] = of_class.mean(dim=0).float()
        std[label] = torch.where(deviation > 1e-6, deviation, overall).float()
    return mean, std


def _foreground_deltas(targets: Sequence[Target], fg_iou: float) -> tuple[Tensor, Tensor]:
    """Give labels (F,) and deltas (F, 4) float64 of the foreground proposals of all images."""
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
