"""What a training run starts from: `imagenet`, `none`, or a state_dict somewhere."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from urllib.error import URLError

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fastrcnn.backbones import imagenet_weights
from fastrcnn.config import FastRCNNConfig
from fastrcnn.model import FastRCNN, load_pretrained
from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import StorageError

MEND = "Give the path or URI of a torchvision state_dict (.pth, .safetensors), or none."


def initial_model(config: FastRCNNConfig, weights: str, seed: int) -> FastRCNN:
    """A model before its first step: seeded random heads, the backbone as `weights` says.

    Raises:
        UserError: the weights cannot be had, or are of another network.
    """
    torch.manual_seed(seed)
    model = FastRCNN(config)
    if weights == "none":
        return model
    state_dict = _imagenet(config.backbone) if weights == "imagenet" else _read(weights)
    try:
        load_pretrained(model, state_dict)
    except ValueError as error:
        raise UserError(
            f"--weights {weights}", str(error), f"--backbone is {config.backbone}."
        ) from error
    return model


def _imagenet(backbone: str) -> Mapping[str, Tensor]:
    try:
        return imagenet_weights(backbone)
    except ValueError as error:
        raise UserError("--weights imagenet", str(error), MEND) from error
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: torch.hub's hash check
        raise UserError("--weights imagenet", f"cannot be downloaded ({error})", MEND) from error


def _read(uri: str) -> Mapping[str, Tensor]:
    try:
        data = storage.read_bytes(uri)
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
