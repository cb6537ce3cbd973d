"""What the kernels are fed, for the fast modes and the exact one alike."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SIMILARITIES = "CTSF"
"""Colour, texture, size, fill."""


def kernels() -> ModuleType:
    """The compiled entries. Imports numba only now: 0.8 s that processes with other proposals save."""
    from fastrcnn.proposals import compiled

    return compiled.kernels()


def planes_of(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W, 3) -> (3, H, W)."""
    planes = np.empty((3, *pixels.shape[:2]), pixels.dtype)
    cv2.split(pixels, list(planes))
    return planes


def groupings_of(strategies: Sequence[str]) -> npt.NDArray[np.uint8]:
    """(S, 4) uint8: which similarities each strategy sums."""
    return np.array([[letter in name for letter in SIMILARITIES] for name in strategies], np.uint8)
