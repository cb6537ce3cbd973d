"""A detector as a folder: model.safetensors and config.json. Never a pickle.

    model.safetensors   the weights, their metadata naming the format
    config.json         format_version, model, classes, preprocessing, proposals, training, weights_sha256

config.json is written last and holds the weights' hash, so a half-written or mixed folder is found out.
Shapes are compared before any memory is taken: a config may claim a layer of a terabyte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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
    """The folder is not a whole checkpoint of this program; the text says what is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    model: FastRCNN
    """In eval mode, on the CPU."""
    classes: tuple[str, ...]
    """Label k is classes[k - 1]."""
    proposals: ProposalConfig
    model_id: str
    """First 16 hex digits of the weights' sha256."""
    config: dict[str, Any]
    """All of config.json."""


def save_checkpoint(
    folder: Path,
    model: FastRCNN,
    *,
    classes: Sequence[str],
    proposals: ProposalConfig,
    training: dict[str, Any],
) -> None:
    """Write `model` to `folder`, which is made.

    Args:
        classes: K names, in label order.
        proposals: what the model was trained on; scoring makes the same.
        training: provenance: data, split, seed, steps, metrics, versions; JSON values.
    """
    if len(classes) != model.config.num_classes:
        raise ValueError(f"{len(classes)} class names for {model.config.num_classes} classes")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "format_version": FORMAT_VERSION,
        "model": asdict(model.config),
        "classes": list(classes),
        "preprocessing": {"color": "RGB", "range": 1.0, "mean": IMAGE_MEAN, "std": IMAGE_STD},
        "proposals": asdict(proposals),
        "training": training,
        "weights_sha256": _sha256(folder / WEIGHTS),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder that `save_checkpoint` wrote, and prove it whole.

    Raises:
        CheckpointError: a file is missing, truncated or altered, the format is newer, a tensor has another
            shape than the config says, or a weight is not finite.
    """
    config = _read_config(folder / CONFIG)
    try:
        model_config = FastRCNNConfig.from_dict(config["model"])
        proposals = ProposalConfig.from_dict(config["proposals"])
        classes = _class_names(config["classes"])
        expected = config["weights_sha256"]
    except ValueError as error:
        raise CheckpointError(f"{CONFIG} is not one of ours: {error}") from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{CONFIG} is not one of ours: {error!r}") from error
    if len(classes) != model_config.num_classes:
        raise CheckpointError(
            f"{CONFIG}: {len(classes)} classes, model of {model_config.num_classes}"
        )
    if proposals.spec.learned and model_config.rpn is None:
        raise CheckpointError(f"{CONFIG}: proposals of the model's RPN, and a model without one")
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{WEIGHTS} is missing")
    digest = _sha256(folder / WEIGHTS)
    if digest != expected:
        size = (folder / WEIGHTS).stat().st_size
        raise CheckpointError(
            f"{WEIGHTS} ({size} bytes) is truncated or altered: its hash is another"
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
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(config, dict) or "format_version" not in config:
        raise CheckpointError(
            f"{path.name} has no format_version: not a checkpoint of this program"
        )
    if config["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path.name} has format_version {config['format_version']!r},"
            f" this program reads {FORMAT_VERSION}"
        )
    return config


def _class_names(names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError("classes are no list of names")
    if len(set(names)) < len(names):
        raise ValueError("a class is there twice")
    return tuple(names)


def _check_tensors(config: FastRCNNConfig, path: Path) -> None:
    """Names, shapes and types in the file's header against the config's, in no memory.

    Raises:
        CheckpointError: the first that differs, by name.
    """
    try:
        with torch.device("meta"):
            wanted = FastRCNN(config).state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{CONFIG}: no such model ({str(error)[:200]})") from error
    try:
        with safe_open(path, framework="pt") as file:
            there = {name: file.get_slice(name) for name in file.keys()}
            for name in sorted(set(wanted) | set(there)):
                if name not in there or name not in wanted:
                    what = "is not in it" if name in wanted else "is not the config's"
                    raise CheckpointError(
                        f"{path.name} does not fit its config: tensor {name!r} {what}"
                    )
                shape, of = there[name].get_shape(), tuple(wanted[name].shape)
                if tuple(shape) != of:
                    raise CheckpointError(
                        f"{path.name} does not fit its config: tensor {name!r} is {shape}, not {list(of)}"
                    )
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error


def _load_weights(model: FastRCNN, path: Path) -> None:
    tensors = load_file(path)
    wanted = model.state_dict()
    for name, tensor in tensors.items():
        if tensor.dtype != wanted[name].dtype:
            raise CheckpointError(
                f"{path.name}: tensor {name!r} is {tensor.dtype}, not {wanted[name].dtype}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path.name}: tensor {name!r} has values that are not finite")
    model.load_state_dict(tensors)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
