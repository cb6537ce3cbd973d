"""Make the initial model: ImageNet weights, random weights, a state_dict, Caffe weights, or a checkpoint."""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Mapping, Sequence
from urllib.error import URLError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fastrcnn.backbones import backbone_spec
from fastrcnn.backbones.caffe import caffe_state_dict
from fastrcnn.checkpoint import CONFIG, CheckpointError
from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import delta_statistics
from fastrcnn.model import FastRCNN, load_pretrained
from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import StorageError
from pipeline.storage.checkpoints import load
from pipeline.training.examples import Example, target_of

logger = logging.getLogger(__name__)

ADVICE = (
    "Give imagenet, none, or the path or URI of a torchvision state_dict (.pth, .safetensors), a .caffemodel"
    " or a checkpoint."
)
CLASS_TENSORS = ("head.cls_score.", "head.bbox_pred.", "head.delta_")
"""Prefixes of the tensors whose rows belong to classes."""


def initial_model(
    config: FastRCNNConfig, weights: str, seed: int, classes: Sequence[str]
) -> FastRCNN:
    """Make a model before its first step: head drawn from `seed`, backbone from `weights`.

    From a checkpoint of this program, every tensor of the same name and shape is copied. If its classes
    differ, the two output layers are drawn from the seed, and the log says so.

    Args:
        weights: `imagenet`, `none`, or a path or URI.
        classes: K names, in label order.

    Raises:
        UserError: the weights cannot be read, or belong to another network.
    """
    torch.manual_seed(seed)
    model = _random(config)
    if weights == "none":
        return model
    if weights != "imagenet" and storage.exists(storage.join(weights, CONFIG)):
        _copy_checkpoint(model, weights, tuple(classes))
        return model
    if weights == "imagenet":
        state_dict = _imagenet(config.backbone)
    else:
        state_dict = _read(weights, config.backbone)
    try:
        load_pretrained(model, state_dict)
    except ValueError as error:
        raise UserError(
            f"--weights {weights}",
            f"{error} (--backbone is {config.backbone})",
            "Give the --backbone of the weights, or other weights.",
        ) from error
    return model


def _random(config: FastRCNNConfig) -> FastRCNN:
    """Make a model with random weights. Raise UserError if the memory is too small for them."""
    try:
        return FastRCNN(config)
    except RuntimeError as error:
        if "alloc" not in str(error) and "memory" not in str(error):
            raise
        sizes = f"--fc-dim {config.fc_dim} --model.pool-size {config.pool_size}"
        why = "this machine has too little memory for a model of this size"
        raise UserError(sizes, why, "Give smaller numbers.") from error


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
        given = load(uri)
    except (CheckpointError, StorageError) as error:
        raise UserError(f"--weights {uri}", str(error), "Give a complete checkpoint.") from error
    if given.model.config.backbone != model.config.backbone:
        raise UserError(
            f"--weights {uri}",
            f"is a {given.model.config.backbone} detector, expected {model.config.backbone}",
            "Give the --backbone of the weights, or other weights.",
        )
    tensors = given.model.state_dict()
    if given.classes != classes:
        tensors = {k: v for k, v in tensors.items() if not k.startswith(CLASS_TENSORS)}
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


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
    """Download the backbone's ImageNet weights, or read them from the cache."""
    try:
        return backbone_spec(backbone).imagenet_weights()
    except ValueError as error:
        raise UserError("--weights imagenet", str(error), ADVICE) from error
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: torch.hub's hash check
        raise UserError("--weights imagenet", f"cannot be downloaded ({error})", ADVICE) from error


def _read(uri: str, backbone: str) -> Mapping[str, Tensor]:
    """Read a state_dict or a .caffemodel. Runs no code from the file."""
    try:
        data = storage.read_bytes(uri)
        if uri.endswith(".caffemodel"):
            return _caffe(data, uri, backbone)
        if uri.endswith(".safetensors"):
            return safetensors.torch.load(data)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (StorageError, SafetensorError) as error:
        raise UserError(f"--weights {uri}", str(error), ADVICE) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = "is not a state_dict that can be loaded without running code"
        raise UserError(f"--weights {uri}", reason, ADVICE) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise UserError(f"--weights {uri}", "does not hold a mapping of names to tensors", ADVICE)
    return loaded


def _caffe(data: bytes, uri: str, backbone: str) -> Mapping[str, Tensor]:
    try:
        return caffe_state_dict(data, backbone)
    except ValueError as error:
        raise UserError(
            f"--weights {uri}",
            f"{error} (--backbone is {backbone})",
            "Give other weights, or another --backbone.",
        ) from error
