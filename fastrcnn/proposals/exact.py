"""Selective search as OpenCV's fast mode has it, at full resolution: the reference for the fast one.

Read in opencv_contrib's graphsegmentation.cpp and selectivesearchsegmentation.cpp, written anew.
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
"""Of the blur before the segmentation."""
COLOR_BINS = 25
_ONE = 1 << 16
"""A grey level in the amounts of weights: k / size of a region of 300,000 pixels is a few thousandths."""
_DROPPED_BITS = 12
"""Weights are the other bits of the distance as float32: 2048 steps from each power of two to the next. Steps
of 1/64 of a grey level tie so many edges of a smooth picture that it falls into a third more regions."""
_BASE = (127 - 12) << (23 - _DROPPED_BITS)
"""Of 2**-12 grey levels: smaller distances are 0."""


def exact_trees(
    pixels: npt.NDArray[np.uint8], own: SelectiveSearchMode
) -> list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]]:
    """(boxes, ranks) of each colour space, as `kernels.hierarchies` gives them.

    Each k segments the pixels anew; histograms have 25 bins a channel, and texture comes from every channel.
    """
    bin_of = (np.arange(256) * COLOR_BINS // 256).astype(np.uint8)
    scales = np.array(own.k, np.int64) * _ONE
    color_bins = 3 * COLOR_BINS
    trees = []
    for space in (cv2.COLOR_RGB2HSV, cv2.COLOR_RGB2Lab):
        converted = cv2.cvtColor(pixels, space)
        planes = planes_of(converted)
        blurred = cv2.GaussianBlur(converted.astype(np.float32), (0, 0), SIGMA)
        right, down = kernels().weights(planes_of(blurred), np.float32(0), _BASE)
        colors = cv2.LUT(planes.reshape(-1, 1), bin_of).reshape(planes.shape)
        colors[1:] += np.array([[[COLOR_BINS]], [[2 * COLOR_BINS]]], np.uint8)
        trees.append(
            kernels().hierarchies(
                *(right, down, _AMOUNTS, colors, exact_texture(planes), TEXTURE_STEP, color_bins),
                *(color_bins + EXACT_BINS, 0, scales, False),
                *(own.min_region, own.max_regions, groupings_of(own.strategies)),
            )
        )
    return trees


def _amounts() -> npt.NDArray[Any]:
    codes = np.arange(1 << 16, dtype=np.int64) + _BASE
    distances = (codes << _DROPPED_BITS).astype(np.int32).view(np.float32)
    distances[0] = 0
    amounts: npt.NDArray[Any] = np.minimum(distances * float(_ONE), 2.0**31).astype(np.uint32)
    return amounts


_AMOUNTS = _amounts()
