"""Inputs of the kernels that all modes of selective search share."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SIMILARITIES = "CTSF"
"""Letters of the four similarities: colour, texture, size, fill."""


def kernels() -> ModuleType:
    """Return the module of the compiled entries.

    Only this call imports numba. So processes with other proposals save 0.8 s.
    """
    from fastrcnn.proposals import compiled

    return compiled.kernels()


def planes_of(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn pixels (H, W, 3) into planes (3, H, W)."""
    planes = np.empty((3, *pixels.shape[:2]), pixels.dtype)
    cv2.split(pixels, list(planes))
    return planes


def groupings_of(strategies: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Mark the similarities that each strategy sums: (S, 4) uint8 for S strategies such as `CTSF`."""
    return np.array([[letter in name for letter in SIMILARITIES] for name in strategies], np.uint8)
