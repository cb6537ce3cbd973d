"""Texture of each pixel as the bins of histograms: gradients by direction and size."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from fastrcnn.proposals.channels import kernels

Bytes = npt.NDArray[np.uint8]

_STEPS = (3, 6, 12, 24, 48)
"""Gradients from which on a pixel falls into the next bin, grey levels over two pixels: below the first it
has no direction."""
DENSE_BINS = 1 + 8 * len(_STEPS)
EXACT_BINS = 3 * 8 * 10
"""3 channels, 8 directions, 10 bins, as OpenCV has it."""
TEXTURE_STEP = 4
"""Rows and columns between those that texture is taken from."""
_MAGNITUDE_BIN = np.searchsorted(_STEPS, np.arange(256), side="right").astype(np.uint8)


def dense_texture(pixels: Bytes) -> Bytes:
    """(H, W, 3) uint8 -> (1, H, W) uint8 below `DENSE_BINS`: one bin a pixel, of octant and size."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return kernels().gradient_bins(grey, _MAGNITUDE_BIN)  # type: ignore[no-any-return]


def exact_texture(planes: Bytes) -> Bytes:
    """(3, H, W) uint8 -> (24, H / step, W / step) uint8 below `EXACT_BINS`.

    OpenCV turns the picture by 45 degrees to find the diagonal gradients; here they are the sum and the
    difference of the other two. Each direction's halves, above and below 0, are spread over 10 bins.
    """
    bins: list[Bytes] = []
    for plane in planes:
        x, y = (
            cv2.Scharr(plane, cv2.CV_16S, *way)[::TEXTURE_STEP, ::TEXTURE_STEP]
            for way in ((1, 0), (0, 1))
        )
        for gradient in (x, y, x + y, y - x):
            bins += [_spread(gradient, len(bins)), _spread(-gradient, len(bins) + 1)]
    return np.stack(bins)


def _spread(gradient: npt.NDArray[np.int16], number: int) -> Bytes:
    """What is above 0, from 0 to the largest, over bins 10 number to 10 number + 9."""
    largest = max(int(gradient.max()), 1)
    table = np.minimum(np.arange(largest + 1) * 10 // (largest + 1), 9) + 10 * number
    return table.astype(np.uint8)[np.maximum(gradient, 0)]
