"""A detector as a folder: model.safetensors and config.json. Never a pickle.

    model.safetensors   the weights, their metadata naming the format
    config.json         format_version, model, classes, preprocessing, proposals, training, weights_sha256

config.json is written last and holds the weights' hash, so a half-written or mixed folder is found out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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
        proposals = ProposalConfig(**config["proposals"])
        classes = tuple(str(name) for name in config["classes"])
        expected = config["weights_sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{CONFIG} is not one of ours: {error!r}") from error
    if len(classes) != model_config.num_classes:
        raise CheckpointError(
            f"{CONFIG}: {len(classes)} classes, model of {model_config.num_classes}"
        )
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{WEIGHTS} is missing")
    digest = _sha256(folder / WEIGHTS)
    if digest != expected:
        size = (folder / WEIGHTS).stat().st_size
        raise CheckpointError(
            f"{WEIGHTS} ({size} bytes) is truncated or altered: its hash is another"
        )
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
    except ValueError as error:
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


def _load_weights(model: FastRCNN, path: Path) -> None:
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    wanted = model.state_dict()
    for name in sorted(set(wanted) | set(tensors)):
        if name not in tensors or name not in wanted or tensors[name].shape != wanted[name].shape:
            raise CheckpointError(f"{path.name} does not fit its config: tensor {name!r}")
        if tensors[name].is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
            raise CheckpointError(f"{path.name}: tensor {name!r} has values that are not finite")
    model.load_state_dict(tensors)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
