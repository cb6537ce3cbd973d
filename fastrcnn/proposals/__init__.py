"""Candidate boxes. Every proposer has one signature and one promise: same image, same boxes, same order.

proposer(image (H, W, 3) uint8 RGB, *, mode, max_boxes, min_size, seed) -> (P, 4) float32, best first
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals.dense import grid, grid_proposals
from fastrcnn.proposals.opencv import opencv_selective_search
from fastrcnn.proposals.search import load, selective_search

Proposer = Callable[..., npt.NDArray[np.float32]]

PROPOSERS: dict[str, Proposer] = {
    "selective_search": selective_search,
    "opencv": opencv_selective_search,
    "grid": grid_proposals,
}

__all__ = [
    "PROPOSERS",
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
    if config.name == "selective_search":
        load()


def propose(image: npt.NDArray[np.uint8], config: ProposalConfig) -> npt.NDArray[np.float32]:
    """Proposals (P, 4) float32, image frame, best first, by the proposer that `config` names.

    Raises:
        KeyError: no such proposer; `table` and `rpn` make no boxes of an image alone.
    """
    own: dict[str, Any] = {}
    if config.name == "selective_search":
        own = {"max_side": config.max_side, "k": config.k, "strategies": config.strategies}
    elif config.name == "grid":
        own = {"shapes": config.shapes}
    return PROPOSERS[config.name](
        image,
        mode=config.mode,
        max_boxes=config.max_boxes,
        min_size=config.min_size,
        seed=config.seed,
        **own,
    )
