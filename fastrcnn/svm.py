"""The paper's post-hoc classifier (section 5.4): for each class a linear SVM on fc7, instead of the softmax.

The numbers and the mining of hard negatives are those of fast-rcnn train_svms.py, which made the rows of the
paper's Table 8. The module needs the extra `ablate` (scikit-learn).

Legend: R boxes of one image; K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from sklearn.svm import LinearSVC
from torch import Tensor
from torchvision.ops import box_iou

from fastrcnn.loss import Target
from fastrcnn.model import FastRCNN
from fastrcnn.transform import batch_images, to_rois

Features = npt.NDArray[np.float32]

FEATURE_NORM = 20.0
"""Mean norm to which fc7 features are scaled. The other numbers are valid for this norm only."""
COST, BIAS_SCALE, POSITIVE_WEIGHT = 0.001, 10.0, 2.0
"""C of the SVM, the value of its bias feature, and the weight of a positive example."""
NEGATIVE_IOU = 0.3
"""A proposal is a negative of a class if its IoU with every object of the class is below this number."""
HARD, EASY = -1.0001, -1.1
"""A negative with a score above HARD is added to the examples. One with a score below EASY is removed."""
RETRAIN_AFTER = 2000
"""The SVM of a class is trained again when more than this number of negatives were added."""
SCORE_THRESHOLD = -1.05
"""Lowest margin of a detection. Average precision needs the uncertain detections too."""


@dataclass(slots=True)
class _ClassSvm:
    """The SVM of one class: its examples and its weights."""

    positives: list[Features]
    negatives: Features
    weight: Features
    bias: float = 0.0
    num_added: int = 0
    """Negatives added since the last `fit`."""

    def score(self, features: Features) -> Features:
        """Compute the margins (R,) of features (R, fc7)."""
        scores: Features = features @ self.weight + self.bias
        return scores

    def fit(self) -> None:
        """Train on all examples. Then remove the negatives that are easy now."""
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
        self.num_added = 0


def with_svms(model: FastRCNN, images: Sequence[Tensor], targets: Sequence[Target]) -> FastRCNN:
    """Train SVMs on the features of a trained model. Return a copy of the model that scores with them.

    The positives of a class are its ground-truth boxes. Its negatives are proposals whose IoU with each of
    these boxes is below .3; only hard ones are kept. Images are not flipped, as in the reference code.

    Args:
        model: trained, with one scale, in eval mode.
        images: tensors (H, W, 3) uint8 RGB.
        targets: the targets of the same images.

    Returns:
        A model whose class_logits are margins (`classifier="svm"`). Column 0 is 0.

    Raises:
        ValueError: a class has no ground-truth box, or the model has an image pyramid.
    """
    if len(model.config.scales) > 1:
        raise ValueError(
            f"the model has an image pyramid of {len(model.config.scales)} scales: SVMs need a model"
            " with one scale"
        )
    num_classes, width = model.config.num_classes, model.head.cls_score.in_features
    present = {int(label) for target in targets for label in target.gt_labels}
    absent = sorted(set(range(1, num_classes + 1)) - present)
    if absent:
        raise ValueError(
            f"labels {absent} have no ground-truth box: an SVM needs at least one for each class"
        )
    empty = np.zeros((0, width), np.float32)
    svms = [_ClassSvm([], empty, np.zeros(width, np.float32)) for _ in range(num_classes)]
    scale = _feature_scale(model, images, targets)
    for image, target in zip(images, targets, strict=True):
        features = _fc7(model, image, target.gt_boxes) * scale
        for label in sorted(set(target.gt_labels.tolist())):
            svms[label - 1].positives.append(features[(target.gt_labels == label).numpy()])
    _mine_hard_negatives(model, images, targets, scale, svms)
    return _replace_classifier(model, svms, scale)


def _mine_hard_negatives(
    model: FastRCNN,
    images: Sequence[Tensor],
    targets: Sequence[Target],
    scale: float,
    svms: list[_ClassSvm],
) -> None:
    """Add hard negatives to each class in one pass over the images, and train its SVM (train_svms.py).

    A class is trained again each time `RETRAIN_AFTER` negatives have been added, and once at the end.
    """
    for image, target in zip(images, targets, strict=True):
        features = _fc7(model, image, target.proposals) * scale
        for label, svm in enumerate(svms, start=1):
            objects = target.gt_boxes[target.gt_labels == label]
            is_negative = torch.ones(len(features), dtype=torch.bool)
            if len(objects):
                is_negative = box_iou(target.proposals, objects).amax(dim=1) < NEGATIVE_IOU
            negatives = features[is_negative.numpy()]
            hard = negatives[svm.score(negatives) > HARD]
            svm.negatives = np.concatenate([svm.negatives, hard])
            svm.num_added += len(hard)
            if svm.num_added > RETRAIN_AFTER:
                svm.fit()
    for svm in svms:
        svm.fit()


def _feature_scale(
    model: FastRCNN, images: Sequence[Tensor], targets: Sequence[Target], sample: int = 100
) -> float:
    """Compute the factor that scales this model's features to `FEATURE_NORM`.

    It is measured on the first `sample` images.
    """
    norms = [
        np.linalg.norm(_fc7(model, image, target.proposals), axis=1)
        for image, target in list(zip(images, targets, strict=True))[:sample]
        if len(target.proposals)
    ]
    mean = float(np.concatenate(norms).mean()) if norms else 0.0
    if not mean > 0:
        raise ValueError(
            f"the features of all proposals of the first {sample} images are 0, or these images have no"
            " proposal: SVMs need proposals and a trained model"
        )
    return FEATURE_NORM / mean


@torch.inference_mode()
def _fc7(model: FastRCNN, image: Tensor, boxes: Tensor) -> Features:
    """Compute the features (R, fc7) of boxes (R, 4), image frame."""
    config = model.config
    batch = batch_images([image], config.scale, config.max_size, model.device, resize=config.resize)
    rois = to_rois([boxes], batch.factors)
    maps = model.backbone(batch.images)
    features: Features = model.head.hidden(model.pool(maps, rois)).cpu().numpy()
    return features


def _replace_classifier(model: FastRCNN, svms: Sequence[_ClassSvm], scale: float) -> FastRCNN:
    """Return the network with the SVMs as its last layer: w . (scale * x) + b is a linear layer too."""
    config = replace(
        model.config,
        classifier="svm",
        score_threshold=SCORE_THRESHOLD,
        calibrate=False,  # margins are no probabilities
        calibration=None,
        one_class_iou=None,
    )
    copy = FastRCNN(config)
    state = dict(model.state_dict())
    weight = torch.zeros_like(state["head.cls_score.weight"])
    bias = torch.zeros_like(state["head.cls_score.bias"])
    for label, svm in enumerate(svms, start=1):
        weight[label] = torch.from_numpy(svm.weight * scale)
        bias[label] = svm.bias
    copy.load_state_dict(state | {"head.cls_score.weight": weight, "head.cls_score.bias": bias})
    return copy.to(model.device).eval()
