"""The training objective: from images and targets to losses. `Objective.forward` shows the steps in order.

Legend: N images; P proposals and G ground-truth boxes of one image; R sampled RoIs of all images, F of them
foreground; K classes; u the true class of an RoI (0 is background); L feature maps.
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


class TrainingLoss(NamedTuple):
    """The losses of one forward pass over N images."""

    loss: MultiTaskLoss
    """The head's losses, averaged over the R RoIs."""
    num_rois: int
    """R. Each rank weights its gradients by this number."""
    num_fg: int
    """F, the number of foreground RoIs."""
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
) -> MultiTaskLoss:
    """Compute the paper's loss (equations 1 to 3), averaged over the RoIs.

    The loss of one RoI is -log p_u + lambda [u >= 1] sum smooth_L1(t_u - v).

    Both parts are divided by R, not by F. So each foreground RoI has the same weight, however many others the
    batch holds. Division by F would give the only foreground RoI of one batch as much weight as a hundred
    foreground RoIs of another batch.

    Args:
        class_logits: (R, K + 1).
        box_deltas: (R, 4 * (K + 1)), t. Only the four values of class u enter the loss.
        labels: (R,) int64, u.
        targets: (R, 4), v, normalised like `box_deltas`. Rows of background RoIs are not read.
        beta: the absolute error at which smooth L1 changes from quadratic to linear. 0 gives the L1 loss.
        box_weight: lambda.

    Returns:
        Three scalars. They are 0 if R is 0.
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
    """(R, 4) from RoI to ground truth, not normalised. Rows of background RoIs have no meaning."""
    num_fg: int
    """F."""


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
        """Return N tensors of proposals (P, 4), image frame, and the RPN's losses.

        Without an RPN, the proposals are those of the targets and there are no losses (None). With an RPN, it
        makes the proposals. RPN and head are trained by approximate joint training (Ren et al. 2015,
        section 3.2): no gradient flows through the boxes.
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
        """Sample RoIs of each image and concatenate them, in the model frame."""
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
    """Draw one of `train_scales`, or one of the pyramid's levels (fast-rcnn minibatch.py)."""
    scales = config.train_scales or config.scales
    if len(scales) == 1:
        return scales[0]
    return scales[int(torch.randint(len(scales), (), generator=_generator(seed, "scale")))]


def _sample_image(
    proposals: Tensor, target: Target, seed: int, config: FastRCNNConfig
) -> RoISample:
    """Sample the RoIs of one image with the numbers of the config. Boxes are in the image frame."""
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
    """Make a random generator. Each purpose has its offset, so an image's purposes draw different numbers."""
    offset = {"rois": 0, "scale": 1, "anchors": 2}[purpose]
    return torch.Generator().manual_seed(seed + offset)


def delta_statistics(
    targets: Sequence[Target],
    num_classes: int,
    fg_iou: float = 0.5,
    *,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute mean and population standard deviation of the foreground proposals' deltas, for each class.

    Ground-truth boxes count as proposals too, as in the reference code (fast-rcnn roidb.py). In that code, a
    class has standard deviation 0, and so NaN targets, if it has no foreground proposal or only perfect ones.
    Here such a class gets the standard deviation over all classes.

    Args:
        targets: the targets of the whole training set.
        num_classes: K.
        fg_iou: a proposal with at least this IoU is foreground.
        class_agnostic: give every class the numbers over all classes, because one output serves all classes.

    Returns:
        delta_mean, delta_std: (K + 1, 4) float32. Background has mean 0 and standard deviation 1,
        except with `class_agnostic`; nothing reads that row.
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
    """Return labels (F,) int64 and deltas (F, 4) float64 of the foreground proposals of all images."""
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
