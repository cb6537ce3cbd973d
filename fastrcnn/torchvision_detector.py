"""torchvision's Faster R-CNN detectors as models of this package: the same boxes, labels and scores.

A state_dict of torchvision is recognised by its keys and shapes. Its numbers (sides of anchors, thresholds,
scale) are not in the file: they are those of torchvision's functions.

    torchvision                                  here
    backbone.body.*, backbone.fpn.*, rpn.head.*  the same names
    roi_heads.box_head.fc6, fc7                  head.fc6, fc7
    roi_heads.box_head.0 to 3, 5                 head.convs.0 to 3, head.fc6 (fasterrcnn_resnet50_fpn_v2)
    roi_heads.box_predictor.cls_score, bbox_pred head.cls_score, bbox_pred
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.ops import FrozenBatchNorm2d

from fastrcnn.backbones import BACKBONE_SPECS, BackboneSpec, PublishedDetector
from fastrcnn.config import STANDARD_RATIOS, FastRCNNConfig, RPNConfig
from fastrcnn.model import FastRCNN

MODEL: Mapping[str, Any] = {
    "aligned": False,
    "resize": "floor",
    "scale": 800,
    "max_size": 1333,
    "proposal_nms": None,
}
"""Fields of `FastRCNNConfig.modern` that torchvision's detectors change."""
RPN: Mapping[str, Any] = {
    "extra_level": True,
    "torchvision_anchors": True,
    "sides": ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)),
    "ratios": STANDARD_RATIOS,
}
"""Fields of `RPNConfig` that torchvision's detectors change."""

_RENAMED = (
    # Files of torchvision before 0.13, such as the published fasterrcnn_resnet50_fpn, have one index less.
    (
        r"^backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$",
        r"backbone.fpn.\1_blocks.\2.0.\3",
    ),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^roi_heads\.box_head\.(fc[67])\.", r"head.\1."),
    (r"^roi_heads\.box_head\.5\.", "head.fc6."),
    (r"^roi_heads\.box_head\.(\d+)\.", r"head.convs.\1."),
    (r"^roi_heads\.box_predictor\.", "head."),
)
_OTHER_HEADS = ("roi_heads.mask_", "roi_heads.keypoint_")
"""Prefixes of the heads that a Mask or Keypoint R-CNN has in addition. They are left out."""
_CLASSES = "roi_heads.box_predictor.cls_score.weight"


class DetectorError(ValueError):
    """The state_dict is no detector that this package can run. The message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """One of torchvision's detectors, on a backbone of this package."""

    backbone: str
    published: PublishedDetector

    @property
    def name(self) -> str:
        """The name of its function in `torchvision.models.detection`."""
        return self.published.name

    @property
    def model(self) -> dict[str, Any]:
        """The fields of `FastRCNNConfig.modern` that it changes, without the RPN."""
        return {**MODEL, **self.published.model}

    @property
    def rpn(self) -> dict[str, Any]:
        """The fields of `RPNConfig` that it changes."""
        return {**RPN, **self.published.rpn}

    def config(self, num_classes: int) -> FastRCNNConfig:
        """Make the config with which it finds the boxes that torchvision finds."""
        return FastRCNNConfig.modern(
            num_classes, backbone=self.backbone, rpn=RPNConfig(**self.rpn), **self.model
        )

    def download(self) -> Mapping[str, Tensor]:
        """Download its newest COCO weights into torch's hub folder, unless they are there already.

        Raises:
            OSError: the download failed.
        """
        import torchvision

        weights = torchvision.models.get_model_weights(self.name)["COCO_V1"]
        # torch.hub's default would run any code that a pickle holds.
        state_dict: Mapping[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
        return state_dict


def iter_detectors() -> Iterator[Detector]:
    """Yield the detectors of all backbones."""
    for spec in BACKBONE_SPECS.values():
        for published in spec.detectors:
            yield Detector(backbone=spec.name, published=published)


def find_detector(name: str) -> Detector | None:
    """Return the detector of this name, or None."""
    return next((detector for detector in iter_detectors() if detector.name == name), None)


def coco_detector(spec: BackboneSpec) -> Detector:
    """Return torchvision's COCO detector for a backbone.

    Raises:
        DetectorError: torchvision has none.
    """
    backbone = spec.coco_backbone or spec.name
    detectors = [detector for detector in iter_detectors() if detector.backbone == backbone]
    if not detectors:
        known = dict.fromkeys(detector.backbone for detector in iter_detectors())
        raise DetectorError(
            f"torchvision has no COCO detector on {spec.name}; it has detectors on {', '.join(known)}"
        )
    return detectors[0]


def is_detector(state_dict: Mapping[str, Any]) -> bool:
    """Return True if the keys are those of a detector of torchvision, of any kind."""
    names = list(state_dict)
    body = any(name.startswith("backbone.") for name in names)
    heads = ("roi_heads.", "rpn.", "head.classification_head.")
    # A checkpoint of this package has rpn.head and head.cls_score, but no roi_heads.
    return body and any(name.startswith(heads) for name in names) and "head.delta_std" not in names


def recognise(state_dict: Mapping[str, Tensor]) -> Detector:
    """Find the detector that a state_dict belongs to, by its keys and shapes.

    Two detectors may have the same keys and shapes: then the first, with the larger scale, is returned.

    Raises:
        DetectorError: no detector has these keys and shapes.
    """
    num_classes = count_classes(state_dict)
    tensors = rename(state_dict)
    fewest: tuple[int, Detector, str] | None = None
    for detector in iter_detectors():
        problems = _mismatches(detector, tensors, num_classes)
        if not problems:
            return detector
        if fewest is None or len(problems) < fewest[0]:
            fewest = len(problems), detector, problems[0]
    assert fewest is not None  # there are detectors
    number, detector, problem = fewest
    raise DetectorError(
        f"is no detector that this program knows. The most similar one is {detector.name}, but {number}"
        f" tensors differ: {problem}"
    )


def count_classes(state_dict: Mapping[str, Tensor]) -> int:
    """Return the number of classes K of a Faster R-CNN, without the background.

    Raises:
        DetectorError: the state_dict has no head of a Faster R-CNN, or the background is its only class.
    """
    if _CLASSES not in state_dict:
        raise DetectorError(
            f"has no {_CLASSES}: expected a Faster R-CNN of torchvision. RetinaNet, FCOS and SSD have other"
            " heads"
        )
    num_classes = len(state_dict[_CLASSES]) - 1
    if num_classes < 1:
        raise DetectorError(
            f"{_CLASSES} has {num_classes + 1} rows: expected a background and classes"
        )
    return num_classes


def rename(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors under the names of this package. Heads for masks and keypoints are left out."""
    renamed = {}
    for name, tensor in state_dict.items():
        if name.startswith(_OTHER_HEADS):
            continue
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    return renamed


def _mismatches(detector: Detector, tensors: Mapping[str, Tensor], num_classes: int) -> list[str]:
    """List the differences in names and shapes between a detector and a file."""
    with torch.device("meta"):
        expected = FastRCNN(detector.config(num_classes)).state_dict()
    problems = []
    for name in sorted({*_compared(expected), *_compared(tensors)}):
        if name not in tensors:
            problems.append(f"{name} is missing")
        elif name not in expected:
            problems.append(f"{name} is not part of it")
        elif expected[name].shape != tensors[name].shape:
            shapes = list(tensors[name].shape), list(expected[name].shape)
            problems.append(f"{name} has shape {shapes[0]}, expected {shapes[1]}")
    return problems


def _compared(names: Mapping[str, Tensor]) -> list[str]:
    """Leave out the names that only one of both programs has."""
    return [n for n in names if not n.endswith(("num_batches_tracked", "delta_mean", "delta_std"))]


def norm_eps(detector: Detector, state_dict: Mapping[str, Tensor]) -> float:
    """Return the eps of the batch norms of a file.

    A file with `num_batches_tracked` has batch norms that were trained, with torch's eps of 1e-5. A file
    without has frozen ones, as the published weights and all detectors that were fine-tuned from them.
    """
    trained = any(name.endswith("num_batches_tracked") for name in state_dict)
    return nn.BatchNorm2d(1).eps if trained else detector.published.norm_eps


def fit_norms(tensors: Mapping[str, Tensor], model: FastRCNN, eps: float) -> dict[str, Tensor]:
    """Change the scales of batch norms that were trained with another eps than the model's.

    A norm multiplies by weight / sqrt(variance + eps). With weight * sqrt((variance + model's eps) /
    (variance + eps)), the product is the same. Taking the difference off the variance would lose the digits
    of small variances.

    Raises:
        DetectorError: a variance is 0, and so is `eps`.
    """
    fitted = dict(tensors)
    for name, norm in model.named_modules():
        if not isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d) or norm.eps == eps:
            continue
        if f"{name}.weight" not in tensors:
            continue
        variance = tensors[f"{name}.running_var"].double()
        if not bool((variance + eps > 0).all()):
            raise DetectorError(
                f"{name}.running_var is 0 somewhere, which needs an eps above {eps:g}"
            )
        factor = ((variance + norm.eps) / (variance + eps)).sqrt()
        weight = tensors[f"{name}.weight"]
        fitted[f"{name}.weight"] = (weight.double() * factor).to(weight.dtype)
    return fitted


def from_torchvision(
    state_dict: Mapping[str, Tensor], *, detector: Detector | None = None, eps: float | None = None
) -> FastRCNN:
    """Build the model that finds what torchvision's detector with this state_dict finds.

    Args:
        state_dict: of a Faster R-CNN of torchvision, with any number of classes.
        detector: the detector. None: the one that `recognise` finds.
        eps: eps of its batch norms. None: see `norm_eps`.

    Returns:
        The model in eval mode. Its label k is torchvision's label k.

    Raises:
        DetectorError: the state_dict does not belong to this detector, or to any.
    """
    detector = detector or recognise(state_dict)
    num_classes = count_classes(state_dict)
    tensors = rename(state_dict)
    problems = _mismatches(detector, tensors, num_classes)
    if problems:
        raise DetectorError(f"is not the detector {detector.name}: {problems[0]}")
    model = FastRCNN(detector.config(num_classes))
    eps = norm_eps(detector, state_dict) if eps is None else eps
    fitted = fit_norms(tensors, model, eps)
    wanted = model.state_dict()
    model.load_state_dict({k: fitted.get(k, v).to(v.dtype) for k, v in wanted.items()})
    return model.eval()


def coco_names(num_classes: int) -> tuple[str, ...] | None:
    """Return the names of torchvision's COCO categories, or None if their number is another.

    Ten of them are N/A. They get numbers, because the names of a checkpoint's classes must differ.
    """
    categories: Sequence[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    if len(categories) != num_classes:
        return None
    return tuple(
        f"N/A {label}" if name == "N/A" else name for label, name in enumerate(categories, start=1)
    )
