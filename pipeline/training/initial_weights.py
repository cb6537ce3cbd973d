"""Make the initial model: ImageNet, COCO, Caffe or random weights, a state_dict or a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.error import URLError

import torch
from torch import Tensor

from fastrcnn.backbones import TIMM, backbone_spec, network_name
from fastrcnn.backbones.caffe import caffe_state_dict
from fastrcnn.checkpoint import CONFIG, CheckpointError
from fastrcnn.config import FastRCNNConfig
from fastrcnn.delta_statistics import delta_statistics
from fastrcnn.model import FastRCNN, load_pretrained
from fastrcnn.torchvision_detector import Detector, find_detector, is_detector
from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config.numbers import read_numbers
from pipeline.errors import UserError
from pipeline.storage import StorageError
from pipeline.storage.checkpoints import load
from pipeline.training.detector_weights import (
    COCO,
    build_detector,
    download,
    named_detector,
    recognise_file,
    with_defaults,
)
from pipeline.training.examples import Example, target_of
from pipeline.training.state_dicts import ADVICE, read_state_dict

logger = logging.getLogger(__name__)

CLASS_TENSORS = ("head.cls_score.", "head.bbox_pred.", "head.delta_")
"""Prefixes of the tensors whose rows belong to classes."""
IMAGENET, IMAGENET_V1, NONE = "imagenet", "imagenet_v1", "none"
"""Values of --weights: torchvision's newest and first ImageNet weights, and random weights."""


def is_name(weights: str) -> bool:
    """Return True if --weights is a name and no path or URI."""
    names = (IMAGENET, IMAGENET_V1, NONE, COCO)
    return weights in names or find_detector(weights) is not None


def initial_model(
    config: FastRCNNConfig, weights: str, seed: int, classes: Sequence[str]
) -> FastRCNN:
    """Make a model before its first step: head drawn from `seed`, backbone from `weights`.

    From a checkpoint of this program, every tensor of the same name and shape is copied. If its classes
    differ, the two output layers are drawn from the seed, and the log says so. A detector of torchvision is
    copied likewise; of its two output layers, the rows of classes with the same name are kept.

    Args:
        weights: `imagenet`, `imagenet_v1`, `coco`, `none`, a detector of torchvision, or a path or URI.
        classes: K names, in label order.

    Raises:
        UserError: the weights cannot be read, or belong to another network.
    """
    torch.manual_seed(seed)
    model = _random_model(config)
    if weights == NONE:
        return model
    detector = named_detector(weights, config.backbone)
    if detector is not None:
        _copy_detector(model, download(detector, weights), detector, weights, tuple(classes))
        return model
    if weights in (IMAGENET, IMAGENET_V1):
        state_dict = _imagenet_state_dict(config.backbone, weights)
    elif storage.exists(storage.join(weights, CONFIG)):
        _copy_checkpoint(model, weights, tuple(classes))
        return model
    else:
        state_dict = _read_state_dict(weights, config.backbone)
    if is_detector(state_dict):
        detector = recognise_file(state_dict, weights)
        _copy_detector(model, state_dict, detector, weights, tuple(classes))
        return model
    try:
        load_pretrained(model, state_dict)
    except ValueError as error:
        raise UserError(
            f"--weights {weights}",
            f"{error} (--backbone is {config.backbone})",
            "Give the --backbone of the weights, or other weights.",
        ) from error
    return model


def _random_model(config: FastRCNNConfig) -> FastRCNN:
    """Make a model with random weights. Raise UserError if the memory is too small for them."""
    try:
        return FastRCNN(config)
    except RuntimeError as error:
        if "alloc" not in str(error) and "memory" not in str(error):
            raise
        sizes = f"--fc-dim {config.fc_dim} --model.pool-size {config.pool_size}"
        why = "this machine has too little memory for a model of this size"
        raise UserError(sizes, why, "Give smaller numbers.") from error


def with_revision(config: TrainConfig, begun: str | None) -> tuple[TrainConfig, str | None]:
    """Fix the revision of the weights of a backbone of timm.

    Args:
        begun: the revision with which an earlier run in this output began. None: there is none.

    Returns:
        The flags with --backbone timm/NAME@REVISION, and the revision. None: nothing had to be fixed.

    Raises:
        UserError: the Hub cannot be asked for its newest revision.
    """
    numbers = read_numbers(config, strict=False)
    backbone = numbers.values.get("model.backbone") or ""
    fixed = "@" in backbone or config.weights not in (IMAGENET, IMAGENET_V1)
    if not backbone.startswith(TIMM) or fixed:
        return config, None
    from fastrcnn.backbones.timm_models import newest_revision

    try:
        revision = begun or newest_revision(backbone)
    except (OSError, RuntimeError, ValueError) as error:
        why = f"the newest revision of its weights cannot be asked for ({error})"
        advice = "Give --backbone timm/NAME@REVISION, or the path of its .safetensors as --weights."
        raise UserError(f"--backbone {backbone}", why, advice) from error
    logger.info("weights of %s: revision %s", backbone, revision)
    settings = tuple(text for text in config.set if not text.startswith("backbone="))
    model = with_defaults(config.model, {}, "model", numbers)  # its backbone is the short flag's
    name = f"{backbone}@{revision}"
    return replace(config, backbone=name, set=settings, model=model), revision


def measure_deltas(model: FastRCNN, examples: Sequence[Example]) -> None:
    """Measure mean and standard deviation of the box deltas on these examples, unless the config gives them.

    Changes the model in place.
    """
    config = model.config
    if config.delta_std is None:
        model.head.delta_mean, model.head.delta_std = delta_statistics(
            [target_of(example) for example in examples],
            config.num_classes,
            class_agnostic=config.class_agnostic,
        )


def _copy_checkpoint(model: FastRCNN, uri: str, classes: tuple[str, ...]) -> None:
    """Copy the tensors of a trained detector that fit, into the model in place."""
    try:
        trained = load(uri)
    except (CheckpointError, StorageError) as error:
        raise UserError(f"--weights {uri}", str(error), "Give a complete checkpoint.") from error
    _check_backbone(model, trained.model, uri)
    tensors = trained.model.state_dict()
    if trained.classes != classes:
        tensors = {k: v for k, v in tensors.items() if not k.startswith(CLASS_TENSORS)}
    _copy_fitting(model, tensors, uri)


def _copy_detector(
    model: FastRCNN,
    state_dict: Mapping[str, Tensor],
    detector: Detector,
    weights: str,
    classes: tuple[str, ...],
) -> None:
    """Copy the tensors of torchvision's detector that fit, into the model in place."""
    trained, names = build_detector(state_dict, detector, weights)
    _check_backbone(model, trained, weights)
    if model.config.pooling == "align" and model.config.aligned != trained.config.aligned:
        needed = f"was trained with aligned={trained.config.aligned}, and the model has another"
        advice = f"Give --model.aligned {trained.config.aligned}."
        raise UserError(f"--weights {weights}", needed, advice)
    tensors = trained.state_dict()
    rows = class_rows(model, tensors, names or (), classes)
    tensors = {k: v for k, v in tensors.items() if not k.startswith(CLASS_TENSORS)}
    _copy_fitting(model, tensors | rows, weights)


def class_rows(
    model: FastRCNN,
    tensors: Mapping[str, Tensor],
    names: Sequence[str],
    classes: Sequence[str],
) -> dict[str, Tensor]:
    """Give the output layers with the rows of those classes that both detectors have.

    Args:
        model: gives the rows of the other classes.
        tensors: the state_dict of a detector with the classes `names`.
        names, classes: names of the detector's classes, and of the model's. Upper and lower case are alike.

    Returns:
        Tensors by name. Empty if no class has the same name.
    """
    labels = {name.lower(): label for label, name in enumerate(names, start=1)}
    pairs = [
        (label, labels[name.lower()])
        for label, name in enumerate(classes, start=1)
        if name.lower() in labels
    ]
    if not pairs or model.config.class_agnostic:
        return {}
    logger.info("weights: %d of %d classes keep their rows of the head", len(pairs), len(classes))
    rows = {}
    for layer, per_class in (("head.cls_score", 1), ("head.bbox_pred", 4)):
        for part in ("weight", "bias"):
            name = f"{layer}.{part}"
            row = model.state_dict()[name].clone()
            ours, theirs = (t.view(-1, per_class, *t.shape[1:]) for t in (row, tensors[name]))
            for label, other in [(0, 0), *pairs]:
                ours[label] = theirs[other]
            rows[name] = row
    return rows


def _check_backbone(model: FastRCNN, trained: FastRCNN, uri: str) -> None:
    """Raise UserError if the two detectors have different backbones."""
    if network_name(trained.config.backbone) != network_name(model.config.backbone):
        raise UserError(
            f"--weights {uri}",
            f"is a {trained.config.backbone} detector, expected {model.config.backbone}",
            "Give the --backbone of the weights, or other weights.",
        )


def _copy_fitting(model: FastRCNN, tensors: Mapping[str, Tensor], uri: str) -> None:
    """Copy the tensors that have the model's names and shapes. The log names those that are left."""
    wanted = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    model.load_state_dict(wanted | fitting)
    random = sorted(set(wanted) - set(fitting))
    logger.info(
        "weights: %d of %d tensors from %s; drawn from the seed: %s",
        len(fitting),
        len(wanted),
        uri,
        ", ".join(random) or "none",
    )


def _imagenet_state_dict(backbone: str, weights: str) -> Mapping[str, Tensor]:
    """Download the backbone's ImageNet weights, or read them from the cache."""
    try:
        return backbone_spec(backbone).imagenet_weights(first=weights == IMAGENET_V1)
    except ValueError as error:
        raise UserError(f"--weights {weights}", str(error), ADVICE) from error
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: torch.hub's hash check
        raise UserError(
            f"--weights {weights}", f"cannot be downloaded ({error})", ADVICE
        ) from error


def _read_state_dict(uri: str, backbone: str) -> Mapping[str, Tensor]:
    """Read a state_dict or a .caffemodel. Runs no code from the file."""
    if not uri.endswith(".caffemodel"):
        return read_state_dict(uri)
    try:
        data = storage.read_bytes(uri)
    except StorageError as error:
        raise UserError(f"--weights {uri}", str(error), ADVICE) from error
    return _caffe_state_dict(data, uri, backbone)


def _caffe_state_dict(data: bytes, uri: str, backbone: str) -> Mapping[str, Tensor]:
    try:
        return caffe_state_dict(data, backbone)
    except ValueError as error:
        raise UserError(
            f"--weights {uri}",
            f"{error} (--backbone is {backbone})",
            "Give other weights, or another --backbone.",
        ) from error
