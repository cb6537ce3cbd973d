"""Checkpoints: a trained detector as a folder of two files, without pickle.

    model.safetensors   the weights; the file's metadata names the format
    config.json         format_version, model, classes, preprocessing, proposals, training, weights_sha256;
                        operating_points: the score of each class to look from, if it was validated

config.json is written last and holds the SHA-256 of the weights. So loading refuses a folder that is half
written or mixed from two checkpoints. Shapes are compared before memory is allocated, because a damaged
config may describe a layer of a terabyte.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.model import FastRCNN
from fastrcnn.transform import IMAGE_MEAN, IMAGE_STD

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


class CheckpointError(ValueError):
    """The folder is not a complete checkpoint of this program. The message says what is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A loaded checkpoint."""

    model: FastRCNN
    """In eval mode, on the CPU."""
    classes: tuple[str, ...]
    """K names. Label k is classes[k - 1]."""
    proposals: ProposalConfig
    """The proposals of the training. Scoring makes the same ones."""
    model_id: str
    """The first 16 hex digits of the SHA-256 of the weights."""
    config: dict[str, Any]
    """The whole content of config.json."""


def save_checkpoint(
    folder: Path,
    model: FastRCNN,
    *,
    classes: Sequence[str],
    proposals: ProposalConfig,
    training: dict[str, Any],
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Write a model to a folder. The folder is created if it does not exist.

    Args:
        classes: K names, in the order of the labels.
        proposals: the proposals that the model was trained on. Scoring makes the same ones.
        preprocessing: further entries of `preprocessing`, such as how samples became pixels.
        training: where the model comes from: data, split, seed, steps, metrics, versions. JSON values.

    Raises:
        ValueError: there are not K names.
    """
    num_classes = model.config.num_classes
    if len(classes) != num_classes:
        raise ValueError(f"{len(classes)} class names for {num_classes} classes: give one for each")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "format_version": FORMAT_VERSION,
        "model": asdict(model.config),
        "classes": list(classes),
        "preprocessing": {"color": "RGB", "range": 1.0, "mean": IMAGE_MEAN, "std": IMAGE_STD}
        | dict(preprocessing or {}),
        "proposals": asdict(proposals),
        "training": training,
        "weights_sha256": _sha256(folder / WEIGHTS),
    }
    (folder / CONFIG).write_bytes(config_bytes(config))


def config_bytes(config: Mapping[str, Any]) -> bytes:
    """Write the content of config.json."""
    return f"{json.dumps(config, indent=2)}\n".encode()


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder that `save_checkpoint` wrote, and check that it is complete and unmodified.

    Raises:
        CheckpointError: a file is missing, truncated or modified; or the format is another one; or a tensor
            has another shape than the config says; or a weight is not finite.
    """
    config = _read_config(folder / CONFIG)
    try:
        model_config = FastRCNNConfig.from_dict(config["model"])
        proposals = ProposalConfig.from_dict(config["proposals"])
        classes = _class_names(config["classes"])
        expected = config["weights_sha256"]
    except ValueError as error:
        raise CheckpointError(f"{CONFIG} is not the config of a checkpoint: {error}") from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{CONFIG} is not the config of a checkpoint: {error!r}") from error
    if len(classes) != model_config.num_classes:
        raise CheckpointError(
            f"{CONFIG} names {len(classes)} classes, but its model has {model_config.num_classes}"
        )
    if proposals.spec.learned and model_config.rpn is None:
        raise CheckpointError(
            f"{CONFIG} says that an RPN makes the proposals, but its model has no RPN"
        )
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{WEIGHTS} is missing")
    digest = _sha256(folder / WEIGHTS)
    if digest != expected:
        size = (folder / WEIGHTS).stat().st_size
        raise CheckpointError(
            f"the SHA-256 of {WEIGHTS} ({size} bytes) does not match {CONFIG}: the file is truncated or"
            " modified"
        )
    _check_tensors(model_config, folder / WEIGHTS)
    model = FastRCNN(model_config)
    _load_weights(model, folder / WEIGHTS)
    return Checkpoint(
        model=model.eval(),
        classes=classes,
        proposals=proposals,
        model_id=digest[:16],
        config=config,
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Read config.json and check that this program knows its format."""
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(config, dict) or "format_version" not in config:
        raise CheckpointError(
            f"{path.name} has no format_version: it is not a checkpoint of this program"
        )
    if config["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path.name} has format_version {config['format_version']!r}, but this program reads"
            f" {FORMAT_VERSION}"
        )
    return config


def _class_names(names: object) -> tuple[str, ...]:
    """Check that the classes are a list of different names."""
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError(f"classes={repr(names)[:100]}: expected a list of names")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"classes hold {twice!r} twice: expected each name once")
    return tuple(names)


def _check_tensors(config: FastRCNNConfig, path: Path) -> None:
    """Compare the names and shapes in the file's header with those of the config's model.

    No memory is allocated for the weights.

    Raises:
        CheckpointError: a tensor is missing, is not part of the model, or has another shape. The message
            names the first one.
    """
    try:
        with torch.device("meta"):
            expected = FastRCNN(config).state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{CONFIG} describes a model that cannot be built: {str(error)[:200]}"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    for name in sorted(set(expected) | set(stored)):
        if name not in stored:
            problem = "is missing"
        elif name not in expected:
            problem = "is not part of the config's model"
        elif stored[name] != tuple(expected[name].shape):
            problem = f"has shape {list(stored[name])}, expected {list(expected[name].shape)}"
        else:
            continue
        raise CheckpointError(f"{path.name} does not match {CONFIG}: tensor {name!r} {problem}")


def _load_weights(model: FastRCNN, path: Path) -> None:
    """Load the weights into the model, and check that their types are the model's and all are finite."""
    tensors = load_file(path)
    expected = model.state_dict()
    for name, tensor in tensors.items():
        if tensor.dtype != expected[name].dtype:
            raise CheckpointError(
                f"{path.name}: tensor {name!r} is {tensor.dtype}, expected {expected[name].dtype}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path.name}: tensor {name!r} has values that are not finite")
    model.load_state_dict(tensors)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
