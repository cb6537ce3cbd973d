"""Find out which network the weights of --weights belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastrcnn.backbones import BACKBONE_SPECS, CHOSEN_BACKBONES
from fastrcnn.backbones.convolution import FrozenNorm
from fastrcnn.backbones.spec import BackboneSpec
from fastrcnn.checkpoint import CONFIG
from fastrcnn.torchvision_detector import is_detector
from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import StorageError
from pipeline.training.detector_weights import named_detector, recognise_file
from pipeline.training.state_dicts import read_state_dict

SMALL_COCO_BACKBONE = CHOSEN_BACKBONES["cpu coco"]
"""The small backbone with a COCO detector, for CPUs."""
NO_FILE = ("imagenet", "imagenet_v1", "none")
"""Values of --weights that fit every backbone."""
FROM_CHECKPOINT = ("backbone", "fc_dim", "fc7_dim")
"""Numbers of a checkpoint's model that decide on the shapes of its tensors."""


def numbers_of_weights(
    weights: str, preferred: Sequence[str], backbone: str | None = None
) -> dict[str, Any]:
    """Give the numbers of the model that a file of weights fixes, by name, e.g. `model.backbone`.

    Empty if the value of --weights fits every backbone, and if the file fits none or cannot be read: the
    training refuses it later, with its reason.

    Args:
        preferred: backbones that are tried first. The weights of ResNet-50 fit two backbones, for example.
        backbone: the one that a flag gives.
    """
    if weights in NO_FILE or weights.endswith(".caffemodel"):
        return {}
    try:
        detector = named_detector(weights, backbone or _coco_backbone(preferred))
        if detector is None and storage.exists(uri := storage.join(weights, CONFIG)):
            model = json.loads(storage.read_bytes(uri))["model"]
            return {f"model.{name}": model[name] for name in FROM_CHECKPOINT if model.get(name)}
        state_dict = {} if detector is not None else read_state_dict(weights)
        if is_detector(state_dict):
            detector = recognise_file(state_dict, weights)
    except (UserError, StorageError, ValueError, KeyError, TypeError):
        return {}
    if detector is not None:
        return {
            "model.backbone": detector.backbone,
            "model.fc_dim": detector.config(1).fc_dim,
        }
    names = dict.fromkeys([*preferred, *BACKBONE_SPECS])
    fitting = (n for n in names if n in BACKBONE_SPECS and _fits(BACKBONE_SPECS[n], state_dict))
    name = next(fitting, None)
    return {} if name is None else {"model.backbone": name}


def _coco_backbone(preferred: Sequence[str]) -> str:
    """Return the first preferred backbone on which torchvision has a COCO detector, else a small one that
    has one."""
    names = (name for name in preferred if BACKBONE_SPECS[name].detectors)
    return next(names, SMALL_COCO_BACKBONE)


def _fits(spec: BackboneSpec, state_dict: Mapping[str, Tensor]) -> bool:
    """Return whether every weight of the network is in the file, with its shape."""
    shapes = {name: value.shape for name, value in state_dict.items()}
    with torch.device("meta"):
        expected = spec.body(FrozenNorm).state_dict()
    return all(
        shapes.get(spec.weights_prefix + key) == value.shape
        for key, value in expected.items()
        if not key.endswith("num_batches_tracked")
    )
