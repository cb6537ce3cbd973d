"""Start from a detector of torchvision: find which one --weights names, and give its numbers to the flags."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar
from urllib.error import URLError

from torch import Tensor

from fastrcnn.backbones import backbone_spec
from fastrcnn.config import LEARNED, FastRCNNConfig
from fastrcnn.model import FastRCNN
from fastrcnn.torchvision_detector import (
    Detector,
    DetectorError,
    coco_detector,
    coco_names,
    find_detector,
    from_torchvision,
    is_detector,
    iter_detectors,
    recognise,
)
from pipeline.config import TrainConfig
from pipeline.config.numbers import Numbers, read_numbers
from pipeline.config.overrides import NULL, ModelOverrides, RPNOverrides
from pipeline.errors import UserError
from pipeline.training.state_dicts import read_state_dict

logger = logging.getLogger(__name__)

OverridesType = TypeVar("OverridesType", ModelOverrides, RPNOverrides)

COCO = "coco"
"""Value of --weights: torchvision's COCO detector on the backbone."""
SUFFIXES = (".pth", ".pt", ".safetensors")
"""Suffixes of files that may hold a detector."""
FIXED_MODEL = (
    "pooling",
    "aligned",
    "pool_size",
    "head_convs",
    "fc_dim",
    "fc7_dim",
    "class_agnostic",
)
"""Numbers of the model that decide on shapes, or on what the head's input means."""
FIXED_RPN = ("sides", "ratios", "extra_level", "torchvision_anchors", "convs")
"""Numbers of the RPN that decide likewise."""


def named_detector(weights: str, backbone: str) -> Detector | None:
    """Return the detector that --weights names: `coco`, or a function of torchvision. Else None.

    Raises:
        UserError: torchvision has no COCO detector on this backbone.
    """
    if weights != COCO:
        return find_detector(weights)
    try:
        return coco_detector(backbone_spec(backbone))
    except DetectorError as error:
        advice = "Give another --backbone, or --weights imagenet."
        raise UserError(f"--weights {COCO}", str(error), advice) from error


def download(detector: Detector, weights: str) -> Mapping[str, Tensor]:
    """Download the COCO weights of a detector, or read them from the cache."""
    try:
        return detector.download()
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: torch.hub's hash check
        advice = "Download the file, and give its path as --weights."
        raise UserError(
            f"--weights {weights}", f"cannot be downloaded ({error})", advice
        ) from error


def recognise_file(state_dict: Mapping[str, Tensor], weights: str) -> Detector:
    """Return the detector of a file. Raise UserError if it is none that this program knows."""
    try:
        detector = recognise(state_dict)
    except DetectorError as error:
        known = ", ".join(known.name for known in iter_detectors())
        raise UserError(f"--weights {weights}", str(error), f"Give one of {known}.") from error
    alike = [
        other
        for other in iter_detectors()
        if other.backbone == detector.backbone and other.name in weights
    ]
    return alike[0] if alike else detector


def build_detector(
    state_dict: Mapping[str, Tensor],
    detector: Detector,
    weights: str,
    eps: float | None = None,
) -> tuple[FastRCNN, tuple[str, ...] | None]:
    """Build the model of a detector as it is, and its class names if they are COCO's."""
    try:
        model = from_torchvision(state_dict, detector=detector, eps=eps)
    except DetectorError as error:
        advice = "Give other weights, or another --detector or --norm-eps."
        raise UserError(f"--weights {weights}", str(error), advice) from error
    return model, coco_names(model.config.num_classes)


def detector_of(weights: str, backbone: str) -> Detector | None:
    """Return the detector of torchvision that --weights names or holds. None: it is something else.

    Args:
        backbone: the backbone of the training. `coco` means the detector on it.

    Raises:
        UserError: the weights cannot be read, or are of a detector that this program does not know.
    """
    detector = named_detector(weights, backbone)
    if detector is None and weights.endswith(SUFFIXES):
        state_dict = read_state_dict(weights)
        detector = recognise_file(state_dict, weights) if is_detector(state_dict) else None
    return detector


def with_detector(
    config: TrainConfig,
    chosen: Mapping[str, Any] | None = None,
    learn_proposals: bool = False,
) -> TrainConfig:
    """If --weights is a detector of torchvision, give its numbers as flags that are not given.

    So body, pyramid, RPN and head fit its tensors, and proposals come from its RPN.

    Args:
        chosen: the numbers that were chosen from the data, by name. They stay.
        learn_proposals: the proposals come from its RPN, because no flag gives --proposals.

    Raises:
        UserError: a flag excludes the detector, or the weights cannot be read.
    """
    numbers = read_numbers(config, strict=False)
    preset = FastRCNNConfig.paper if config.preset == "paper" else FastRCNNConfig.modern
    given, chosen = numbers.values.get("model.backbone"), chosen or {}
    backbone = given or chosen.get("model.backbone") or preset(1).backbone
    detector = detector_of(config.weights, backbone)
    if detector is None:
        return config
    _check_backbone(config, detector, given, numbers)
    logger.info("weights %s: torchvision's %s", config.weights, detector.name)
    if given is not None and given != detector.backbone:
        logger.info("its maps are those of the backbone %s, not of %s", detector.backbone, given)
    model: dict[str, Any] = {name: _fixed(detector, name) for name in FIXED_MODEL}
    _check_fixed("model", model, numbers, config)
    model |= {"delta_std": FastRCNNConfig.modern(1).delta_std, "resize": detector.model["resize"]}
    if "model.scale" not in chosen and "model.scale" not in numbers.values:
        published = detector.published.model
        model |= {name: published[name] for name in ("scale", "max_size") if name in published}
    changes: dict[str, Any] = {"backbone": detector.backbone}
    changes["model"] = with_defaults(config.model, model, "model", numbers)
    if learn_proposals or config.proposals in (LEARNED, None):
        rpn = {name: getattr(detector.config(1).rpn, name) for name in FIXED_RPN}
        _check_fixed("rpn", rpn, numbers, config)
        changes["proposals"] = LEARNED
        changes["rpn"] = with_defaults(config.rpn, detector.rpn, "rpn", numbers)
        if config.proposals != LEARNED:
            logger.info("proposals come from the RPN of these weights; --proposals changes that")
    settings = tuple(text for text in config.set if not text.startswith("backbone="))
    return replace(config, set=settings, **changes)


def _fixed(detector: Detector, name: str) -> Any:
    return getattr(detector.config(1), name)


def _check_backbone(
    config: TrainConfig, detector: Detector, given: str | None, numbers: Numbers
) -> None:
    """Raise UserError if --backbone is another network than the detector's."""
    if given is None or detector.backbone in (given, backbone_spec(given).coco_backbone):
        return
    raise UserError(
        f"--weights {config.weights}",
        f"is a {detector.backbone} detector, and {numbers.flags['model.backbone']} is given",
        "Give the --backbone of the weights, or leave it out.",
    )


def _check_fixed(
    part: str, values: Mapping[str, Any], numbers: Numbers, config: TrainConfig
) -> None:
    """Raise UserError for a flag with another value than the weights need."""
    for name, value in values.items():
        number = f"{part}.{name}"
        if number in numbers.flags and numbers.values[number] != value:
            raise UserError(
                numbers.flags[number],
                f"--weights {config.weights} needs {name}={value}",
                "Leave this flag out, or give other weights.",
            )


def with_defaults(
    overrides: OverridesType, values: Mapping[str, Any], part: str, numbers: Numbers
) -> OverridesType:
    """Add values that no flag gives. The backbone is left to its short flag."""
    given = {f.name: getattr(overrides, f.name) for f in fields(overrides)}  # type: ignore[arg-type]
    if part == "model":
        given["backbone"] = None
    for name, value in values.items():
        if f"{part}.{name}" not in numbers.values:
            given[name] = NULL if value is None else value
    return type(overrides)(**given)
