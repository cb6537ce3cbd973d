"""Fast R-CNN (Girshick, ICCV 2015) as plain functions on tensors, without Ray and without storage.

The names of `__all__` are imported when they are first used. So `import fastrcnn` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrcnn.checkpoint import load_checkpoint, save_checkpoint
    from fastrcnn.config import FastRCNNConfig, ProposalConfig
    from fastrcnn.detection import detect
    from fastrcnn.loss import training_loss
    from fastrcnn.model import FastRCNN

__version__ = "0.1.0"

__all__ = [
    "FastRCNN",
    "FastRCNNConfig",
    "ProposalConfig",
    "__version__",
    "detect",
    "load_checkpoint",
    "save_checkpoint",
    "training_loss",
]

_HOMES = {
    "FastRCNN": "model",
    "FastRCNNConfig": "config",
    "ProposalConfig": "config",
    "detect": "detection",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "training_loss": "loss",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fastrcnn.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fastrcnn' has no attribute {name!r}")
