"""Candidate boxes. Every proposer has one signature and one promise: same image, same boxes, same order.

proposer(image (H, W, 3) uint8 RGB, *, mode, max_boxes, min_size, seed) -> (P, 4) float32, best first
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
def _function(place: str) -> Callable[..., Any]:
    """The function that a spec names as ``module:name``."""
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


PROPOSERS: dict[str, Proposer] = {
    name: _function(spec.function) for name, spec in PROPOSER_SPECS.items() if spec.function
}
"""Name -> function, of the proposers that make boxes from an image."""

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
    """Make this process ready for `propose` on one core: OpenCV's threads off, compiled code loaded.

    A process that does not call it pays on its first image. Our kernels start no threads of their own, and
    leave Python's lock while they run, so threads of one process may share them.
    """
    cv2.setNumThreads(1)
    if config.spec.prepare:
        _function(config.spec.prepare)()


def propose(image: npt.NDArray[np.uint8], config: ProposalConfig) -> npt.NDArray[np.float32]:
    """Proposals (P, 4) float32, image frame, best first, by the proposer that `config` names.

    Raises:
        KeyError: no such proposer; `table` and `rpn` make no boxes of an image alone.
    """
    if config.spec.function is None:
        raise KeyError(f"{config.name} makes no boxes of an image: expected {', '.join(PROPOSERS)}")
    boxes: npt.NDArray[np.float32] = _function(config.spec.function)(
        image,
        mode=config.mode,
        max_boxes=config.max_boxes,
        min_size=config.min_size,
        seed=config.seed,
        **{name: getattr(config, name) for name in config.spec.settings},
    )
    return boxes
