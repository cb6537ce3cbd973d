"""What a training run starts from: `imagenet`, `none`, a state_dict, Caffe's weights, or a checkpoint."""

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

MEND = (
    "Give the path or URI of a torchvision state_dict (.pth, .safetensors), a .caffemodel, a checkpoint,"
    " or none."
)
SIBLINGS = ("head.cls_score.", "head.bbox_pred.", "head.delta_")
"""Tensors that belong to a list of classes."""


def initial_model(
    config: FastRCNNConfig, weights: str, seed: int, classes: Sequence[str]
) -> FastRCNN:
    """A model before its first step: seeded random heads, the backbone as `weights` says.

    From a checkpoint of ours every tensor that fits is taken over; where its classes are others, the two
    sibling outputs start anew, and the log says so.

    Args:
        classes: K names, in label order.

    Raises:
        UserError: the weights cannot be had, or are of another network.
    """
    torch.manual_seed(seed)
    model = FastRCNN(config)
    if weights == "none":
        return model
    if weights != "imagenet" and storage.exists(storage.join(weights, CONFIG)):
        _take_over(model, weights, tuple(classes))
        return model
    if weights == "imagenet":
        state_dict = _imagenet(config.backbone)
    else:
        state_dict = _read(weights, config.backbone)
    try:
        load_pretrained(model, state_dict)
    except ValueError as error:
        raise UserError(
            f"--weights {weights}", str(error), f"--backbone is {config.backbone}."
        ) from error
    return model


def measure_deltas(model: FastRCNN, examples: Sequence[Example]) -> None:
    """Give the model the deltas' mean and deviation on these examples, where its config fixes none."""
    config = model.config
    if config.delta_std is None:
        model.head.delta_mean, model.head.delta_std = delta_statistics(
            [target_of(example) for example in examples],
            config.num_classes,
            class_agnostic=config.class_agnostic,
        )


def _take_over(model: FastRCNN, uri: str, classes: tuple[str, ...]) -> None:
    """Start from a trained detector's weights."""
    try:
        given = load(uri)
    except (CheckpointError, StorageError) as error:
        raise UserError(f"--weights {uri}", str(error), "Give a whole checkpoint.") from error
    if given.model.config.backbone != model.config.backbone:
        raise UserError(
            f"--weights {uri}",
            f"is a {given.model.config.backbone} detector",
            f"--backbone is {model.config.backbone}.",
        )
    tensors = given.model.state_dict()
    if given.classes != classes:
        tensors = {k: v for k, v in tensors.items() if not k.startswith(SIBLINGS)}
    wanted = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    model.load_state_dict(wanted | fitting)
    anew = sorted(set(wanted) - set(fitting))
    logger.info(
        "weights: %d of %d tensors of %s; starting anew: %s",
        len(fitting),
        len(wanted),
        uri,
        ", ".join(anew) or "none",
    )


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
    try:
        return backbone_spec(backbone).imagenet_weights()
    except ValueError as error:
        raise UserError("--weights imagenet", str(error), MEND) from error
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: torch.hub's hash check
        raise UserError("--weights imagenet", f"cannot be downloaded ({error})", MEND) from error


def _read(uri: str, backbone: str) -> Mapping[str, Tensor]:
    try:
        data = storage.read_bytes(uri)
        if uri.endswith(".caffemodel"):
            return _caffe(data, uri, backbone)
        if uri.endswith(".safetensors"):
            return safetensors.torch.load(data)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (StorageError, SafetensorError) as error:
        raise UserError(f"--weights {uri}", str(error), MEND) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = "is not a state_dict that loads without running code"
        raise UserError(f"--weights {uri}", reason, MEND) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise UserError(f"--weights {uri}", "holds something else than named tensors", MEND)
    return loaded


def _caffe(data: bytes, uri: str, backbone: str) -> Mapping[str, Tensor]:
    try:
        return caffe_state_dict(data, backbone)
    except ValueError as error:
        raise UserError(f"--weights {uri}", str(error), f"--backbone is {backbone}.") from error
