"""Makes a checkpoint of a Faster R-CNN of torchvision, without training."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor

from fastrcnn.checkpoint import save_checkpoint
from fastrcnn.config import LEARNED, FastRCNNConfig, ProposalConfig
from fastrcnn.model import FastRCNN
from fastrcnn.torchvision_detector import Detector, find_detector, iter_detectors
from pipeline import storage
from pipeline.config.tools import ImportWeightsConfig
from pipeline.errors import UserError
from pipeline.storage import checkpoints
from pipeline.training.detector_weights import (
    build_detector,
    download,
    named_detector,
    recognise_file,
)
from pipeline.training.state_dicts import read_state_dict

logger = logging.getLogger(__name__)


def run(config: ImportWeightsConfig) -> None:
    """Write a checkpoint that finds the boxes that torchvision finds with these weights.

    Raises:
        UserError: the weights are no Faster R-CNN of torchvision, or the output already holds a checkpoint.
    """
    storage.check_writable(config.output)
    detector, state_dict = _read(config)
    model, names = build_detector(state_dict, detector, config.weights, config.norm_eps)
    classes = _class_names(config.classes, names, model)
    logger.info(
        "%s with %d classes: %s at %d to %d pixels",
        detector.name,
        len(classes),
        detector.backbone,
        model.config.scale,
        model.config.max_size,
    )
    checkpoints.check_free(config.output)
    if config.dry_run:
        return
    rpn = model.config.rpn
    assert rpn is not None  # all detectors have one
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(
            Path(folder),
            model,
            classes=classes,
            proposals=ProposalConfig(name=LEARNED, max_boxes=rpn.max_proposals_test),
            training=_provenance(config, detector),
        )
        checkpoints.put(Path(folder), config.output)
    logger.info("wrote %s", config.output)


def _read(config: ImportWeightsConfig) -> tuple[Detector, Mapping[str, Tensor]]:
    """Find the detector, and read or download its tensors."""
    weights = config.weights
    detector = named_detector(weights, FastRCNNConfig.modern(1).backbone)
    state_dict = read_state_dict(weights) if detector is None else download(detector, weights)
    if config.detector is not None:
        detector = find_detector(config.detector)
        if detector is None:
            known = ", ".join(known.name for known in iter_detectors())
            flag = f"--detector {config.detector}"
            raise UserError(flag, "is no detector that this program knows", f"Give one of {known}.")
    return detector or recognise_file(state_dict, weights), state_dict


def _class_names(
    given: tuple[str, ...], names: tuple[str, ...] | None, model: FastRCNN
) -> tuple[str, ...]:
    """Return the names of the classes: those of --classes, else COCO's."""
    num_classes = model.config.num_classes
    classes = given or names
    if classes is None:
        raise UserError(
            "--classes",
            f"is missing, and the weights have {num_classes} classes, not those of COCO",
            f"Give {num_classes} names, in the order of the labels.",
        )
    if len(classes) != num_classes or len(set(classes)) < len(classes):
        raise UserError(
            f"--classes {' '.join(classes)}",
            f"are {len(set(classes))} different names, and the weights have {num_classes} classes",
            "Give one name for each label, without the background.",
        )
    return classes


def _provenance(config: ImportWeightsConfig, detector: Detector) -> dict[str, Any]:
    return {
        "imported_from": config.weights,
        "detector": detector.name,
        "versions": {"torchvision": torchvision.__version__},
    }
