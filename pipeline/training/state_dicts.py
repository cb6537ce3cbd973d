"""Read state_dicts from files, without running code from them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import StorageError

ADVICE = (
    "Give imagenet, imagenet_v1, coco, none, the name of a detector of torchvision, or the path or URI of a"
    " torchvision state_dict (.pth, .safetensors), a .caffemodel or a checkpoint."
)
WRAPPED = ("model", "state_dict", "model_state_dict")
"""Keys under which training programs store the state_dict, e.g. torchvision's references/detection."""


def read_state_dict(uri: str) -> Mapping[str, Tensor]:
    """Read a state_dict from a .safetensors file, or from one that torch.save wrote.

    Raises:
        UserError: the file cannot be read, or holds no state_dict.
    """
    try:
        data = storage.read_bytes(uri)
        if uri.endswith(".safetensors"):
            return _without_prefix(safetensors.torch.load(data))
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (StorageError, SafetensorError) as error:
        raise UserError(f"--weights {uri}", str(error), ADVICE) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = "is not a state_dict that can be loaded without running code"
        raise UserError(f"--weights {uri}", reason, ADVICE) from error
    inner = [loaded[k] for k in WRAPPED if isinstance(loaded, Mapping) and k in loaded]
    loaded = inner[0] if inner and isinstance(inner[0], Mapping) else loaded
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise UserError(f"--weights {uri}", "does not hold a mapping of names to tensors", ADVICE)
    return _without_prefix(loaded)


def _without_prefix(state_dict: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Remove the prefix that DistributedDataParallel adds to each name."""
    prefix = "module."
    if not state_dict or not all(name.startswith(prefix) for name in state_dict):
        return state_dict
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}
