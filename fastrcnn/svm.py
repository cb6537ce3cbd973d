"""The paper's post-hoc classifier (section 5.4): one linear SVM a class on fc7, instead of the softmax.

The numbers and the mining are those of fast-rcnn train_svms.py, where Table 8's rows come from. Needs the
extra `ablate` (scikit-learn).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from fastrcnn.loss import Target
from fastrcnn.model import FastRCNN
from fastrcnn.pooling import pool
from fastrcnn.transform import batch_images, to_rois

Features = npt.NDArray[np.float32]

FEATURE_NORM = 20.0
"""Mean norm that fc7 features are scaled to; the other numbers hold for it alone."""
COST, BIAS_SCALE, POSITIVE_WEIGHT = 0.001, 10.0, 2.0
NEGATIVE_IOU = 0.3
HARD, EASY = -1.0001, -1.1
"""A negative that scores above HARD is taken up; one that scores below EASY is dropped."""
RETRAIN_AFTER = 2000
"""Newly taken negatives after which a class is trained anew."""
SCORE_THRESHOLD = -1.05
"""Lowest margin detected: average precision wants the unsure ones too."""


@dataclass(slots=True)
class _ClassSvm:
    """One class: its examples so far, its weights, and what came since they were fitted."""

    positives: list[Features]
    negatives: Features
    weight: Features
    bias: float = 0.0
    fresh: int = 0

    def score(self, features: Features) -> Features:
        scores: Features = features @ self.weight + self.bias
        return scores

    def fit(self) -> None:
        """Train on what there is, then drop the negatives that have become easy."""
        positives = np.concatenate(self.positives)
        svm = LinearSVC(
            C=COST,
            class_weight={1: POSITIVE_WEIGHT, -1: 1},
            intercept_scaling=BIAS_SCALE,
            loss="hinge",
            penalty="l2",
            random_state=0,
            max_iter=10_000,
        )
        labels = np.r_[np.ones(len(positives)), -np.ones(len(self.negatives))]
        svm.fit(np.concatenate([positives, self.negatives]), labels)
        self.weight = svm.coef_[0].astype(np.float32)
        self.bias = float(svm.intercept_[0])
        self.negatives = self.negatives[self.score(self.negatives) >= EASY]
        self.fresh = 0


def with_svms(model: FastRCNN, images: Sequence[Tensor], targets: Sequence[Target]) -> FastRCNN:
    """A copy of a trained model that scores by SVMs trained on its own features.

    Positives are the ground-truth boxes of a class; negatives its proposals of IoU < .3 with every one of
    them, mined hard. No flips, as in the reference code.

    Args:
        model: trained, single scale, in eval mode.
        images: (H, W, 3) uint8 RGB.
        targets: of the same images.

    Returns:
        A model whose class_logits are margins (`classifier="svm"`), column 0 being 0.

    Raises:
        ValueError: a class has no ground-truth box, or the model has an image pyramid.
    """
    if len(model.config.scales) > 1:
        raise ValueError("SVMs are trained on features of one scale, the model has a pyramid")
    num_classes, width = model.config.num_classes, model.head.cls_score.in_features
    present = {int(label) for target in targets for label in target.gt_labels}
    absent = sorted(set(range(1, num_classes + 1)) - present)
    if absent:
        raise ValueError(f"labels {absent} have no ground-truth box to train an SVM on")
    empty = np.zeros((0, width), np.float32)
    svms = [_ClassSvm([], empty, np.zeros(width, np.float32)) for _ in range(num_classes)]
    scale = _feature_scale(model, images, targets)
    for image, target in zip(images, targets, strict=True):
        features = _fc7(model, image, target.gt_boxes) * scale
        for label in sorted(set(target.gt_labels.tolist())):
            svms[label - 1].positives.append(features[(target.gt_labels == label).numpy()])
    _mine(model, images, targets, scale, svms)
    return _replace_classifier(model, svms, scale)


def _mine(
    model: FastRCNN,
    images: Sequence[Tensor],
    targets: Sequence[Target],
    scale: float,
    svms: list[_ClassSvm],
) -> None:
    """One pass over the images, as train_svms.py makes: a class is trained anew as its negatives gather."""
    for image, target in zip(images, targets, strict=True):
        features = _fc7(model, image, target.proposals) * scale
        for label, svm in enumerate(svms, start=1):
            own = target.gt_boxes[target.gt_labels == label]
            far = torch.ones(len(features), dtype=torch.bool)
            if len(own):
                far = box_iou(target.proposals, own).amax(dim=1) < NEGATIVE_IOU
            candidates = features[far.numpy()]
            hard = candidates[svm.score(candidates) > HARD]
            svm.negatives = np.concatenate([svm.negatives, hard])
            svm.fresh += len(hard)
            if svm.fresh > RETRAIN_AFTER:
                svm.fit()
    for svm in svms:
        svm.fit()


def _feature_scale(
    model: FastRCNN, images: Sequence[Tensor], targets: Sequence[Target], sample: int = 100
) -> float:
    """What brings features of this model to `FEATURE_NORM`, measured on the first images."""
    norms = [
        np.linalg.norm(_fc7(model, image, target.proposals), axis=1)
        for image, target in list(zip(images, targets, strict=True))[:sample]
        if len(target.proposals)
    ]
    mean = float(np.concatenate(norms).mean()) if norms else 0.0
    if not mean > 0:
        raise ValueError("the features of every proposal are 0, or there is no proposal")
    return FEATURE_NORM / mean


@torch.inference_mode()
def _fc7(model: FastRCNN, image: Tensor, boxes: Tensor) -> Features:
    """(R, fc7) of boxes in the image frame."""
    config = model.config
    batch = batch_images([image], config.scale, config.max_size, model.device)
    rois = to_rois([boxes], batch.factors)
    maps = model.backbone(batch.images)
    pooled = pool(maps, rois, model.backbone.strides, config.pool_size, config.pooling)
    hidden = F.relu(model.head.fc7(F.relu(model.head.fc6(pooled.flatten(1)))))
    features: Features = hidden.cpu().numpy()
    return features


def _replace_classifier(model: FastRCNN, svms: Sequence[_ClassSvm], scale: float) -> FastRCNN:
    """The same network with other last weights: w . (scale * x) + b is a linear layer too."""
    config = replace(model.config, classifier="svm", score_threshold=SCORE_THRESHOLD)
    copy = FastRCNN(config)
    state = dict(model.state_dict())
    weight = torch.zeros_like(state["head.cls_score.weight"])
    bias = torch.zeros_like(state["head.cls_score.bias"])
    for label, svm in enumerate(svms, start=1):
        weight[label] = torch.from_numpy(svm.weight * scale)
        bias[label] = svm.bias
    copy.load_state_dict(state | {"head.cls_score.weight": weight, "head.cls_score.bias": bias})
    return copy.to(model.device).eval()
