"""Proposals: candidate boxes of an image. All proposers have the same signature:

    proposer(image (H, W, 3) uint8 RGB, *, mode, max_boxes, min_size, seed) -> (P, 4) float32, best first

The same image and settings always give the same boxes in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fastrcnn.config import PROPOSER_SPECS, ProposalConfig
from fastrcnn.proposals.dense import grid, grid_proposals
from fastrcnn.proposals.opencv import opencv_selective_search
from fastrcnn.proposals.search import selective_search

Proposer = Callable[..., npt.NDArray[np.float32]]


@functools.cache
def _import_function(reference: str) -> Callable[..., Any]:
    """Import the function that a spec names as ``module:name``."""
    module, _, name = reference.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


PROPOSERS: dict[str, Proposer] = {
    name: _import_function(spec.function) for name, spec in PROPOSER_SPECS.items() if spec.function
}
"""The proposers that make boxes from an image alone: name -> function."""

__all__ = [
    "PROPOSERS",
    "PROPOSER_SPECS",
    "Proposer",
    "grid",
    "grid_proposals",
    "opencv_selective_search",
    "prepare",
    "propose",
    "selective_search",
]


def prepare(config: ProposalConfig) -> None:
    """Prepare this process for `propose` on one core: limit OpenCV to one thread and load compiled code.

    Without this call the first image takes longer. The compiled kernels start no threads. They release
    Python's global lock (GIL) while they run, so several threads of one process may call them at once.
    """
    cv2.setNumThreads(1)
    if config.spec.prepare:
        _import_function(config.spec.prepare)()


def propose(image: npt.NDArray[np.uint8], config: ProposalConfig) -> npt.NDArray[np.float32]:
    """Make the proposals of an image with the proposer that `config` names.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (P, 4) float32 xyxy, image frame, best first.

    Raises:
        KeyError: the proposer does not make boxes from an image alone, like `table` and `rpn`.
    """
    if config.spec.function is None:
        raise KeyError(
            f"{config.name} does not make boxes from an image: expected {', '.join(PROPOSERS)}"
        )
    boxes: npt.NDArray[np.float32] = _import_function(config.spec.function)(
        image,
        mode=config.mode,
        max_boxes=config.max_boxes,
        min_size=config.min_size,
        seed=config.seed,
        **{name: getattr(config, name) for name in config.spec.settings},
    )
    return boxes
