"""Selective search like OpenCV's fast mode, at full resolution. It is the reference for the fast modes.

It follows opencv_contrib's graphsegmentation.cpp and selectivesearchsegmentation.cpp, but shares no code with
them.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fastrcnn.config import SelectiveSearchMode
from fastrcnn.proposals.channels import groupings_of, kernels, planes_of
from fastrcnn.proposals.texture import EXACT_BINS, TEXTURE_STEP, exact_texture

SIGMA = 0.8
"""Standard deviation of the blur before the segmentation, pixels."""
COLOR_BINS = 25
"""Histogram bins per channel."""
_ONE = 1 << 16
"""One grey level, in the unit of amounts. The unit is small, because k / size of a region of 300,000 pixels
is only a few thousandths of a grey level."""
_DROPPED_BITS = 12
"""A weight is the distance as float32 without its lowest 12 bits: 2048 steps from a power of two to the next.
With steps of 1/64 of a grey level, many edges of a smooth picture would have equal weights, and the picture
would have a third more regions."""
_BASE = (127 - 12) << (23 - _DROPPED_BITS)
"""The weight of 2**-12 grey levels. Smaller distances count as 0."""


def exact_trees(
    pixels: npt.NDArray[np.uint8], settings: SelectiveSearchMode
) -> list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]]:
    """Compute (boxes, ranks) for each colour space, as `kernels.hierarchies` returns them.

    Each k segments the pixels again. Histograms have 25 bins per channel. Texture comes from every channel.

    Args:
        pixels: (H, W, 3) uint8 RGB.
    """
    bin_of = (np.arange(256) * COLOR_BINS // 256).astype(np.uint8)
    color_bins = 3 * COLOR_BINS
    trees = []
    for space in (cv2.COLOR_RGB2HSV, cv2.COLOR_RGB2Lab):
        converted = cv2.cvtColor(pixels, space)
        planes = planes_of(converted)
        blurred = cv2.GaussianBlur(converted.astype(np.float32), (0, 0), SIGMA)
        right, down = kernels().weights(planes_of(blurred), np.float32(0), _BASE)
        colors = cv2.LUT(planes.reshape(-1, 1), bin_of).reshape(planes.shape)
        colors[1:] += np.array([[[COLOR_BINS]], [[2 * COLOR_BINS]]], np.uint8)
        tree = kernels().hierarchies(
            right,
            down,
            _AMOUNTS,
            colors,
            exact_texture(planes),
            TEXTURE_STEP,
            color_bins,
            color_bins + EXACT_BINS,  # bins
            0,  # limit
            np.array(settings.k, np.int64) * _ONE,  # ks
            False,  # nested
            settings.min_region,
            settings.max_regions,
            groupings_of(settings.strategies),
        )
        trees.append(tree)
    return trees


def _amounts() -> npt.NDArray[Any]:
    """Compute the distance that each weight stands for: (65536,) uint32, in 1 / `_ONE` grey levels."""
    codes = np.arange(1 << 16, dtype=np.int64) + _BASE
    distances = (codes << _DROPPED_BITS).astype(np.int32).view(np.float32)
    distances[0] = 0
    amounts: npt.NDArray[Any] = np.minimum(distances * float(_ONE), 2.0**31).astype(np.uint32)
    return amounts


_AMOUNTS = _amounts()
