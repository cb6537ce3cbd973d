"""Texture features of selective search: each pixel's gradient, as a histogram bin of direction and size.

Legend: H, W the picture.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from fastrcnn.proposals.channels import kernels

Bytes = npt.NDArray[np.uint8]

_STEPS = (3, 6, 12, 24, 48)
"""Lower limits of the bins of gradient size, in grey levels over two pixels. A pixel below the first limit
has no direction."""
DENSE_BINS = 1 + 8 * len(_STEPS)
"""One bin for pixels without direction, and one for each of 8 octants and each size."""
EXACT_BINS = 3 * 8 * 10
"""3 channels, 8 directions, 10 bins each, as in OpenCV."""
TEXTURE_STEP = 4
"""`exact_texture` reads every fourth row and column."""
_MAGNITUDE_BIN = np.searchsorted(_STEPS, np.arange(256), side="right").astype(np.uint8)


def dense_texture(pixels: Bytes) -> Bytes:
    """Compute the bin of each pixel from the octant and the size of its grey gradient.

    Args:
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        (1, H, W) uint8 below `DENSE_BINS`.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return kernels().gradient_bins(grey, _MAGNITUDE_BIN)  # type: ignore[no-any-return]


def exact_texture(planes: Bytes) -> Bytes:
    """Compute 24 bins for every fourth pixel: from 3 channels and 8 gradient directions, as in OpenCV.

    OpenCV rotates the picture by 45 degrees for the diagonal gradients. Here they are the sum and the
    difference of the horizontal and the vertical gradient. The positive and the negative part of each
    gradient have 10 bins each.

    Args:
        planes: (3, H, W) uint8.

    Returns:
        (24, H / `TEXTURE_STEP`, W / `TEXTURE_STEP`) uint8 below `EXACT_BINS`.
    """
    bins: list[Bytes] = []
    for plane in planes:
        x = cv2.Scharr(plane, cv2.CV_16S, 1, 0)[::TEXTURE_STEP, ::TEXTURE_STEP]
        y = cv2.Scharr(plane, cv2.CV_16S, 0, 1)[::TEXTURE_STEP, ::TEXTURE_STEP]
        for gradient in (x, y, x + y, y - x):
            bins += [_spread(gradient, len(bins)), _spread(-gradient, len(bins) + 1)]
    return np.stack(bins)


def _spread(gradient: npt.NDArray[np.int16], number: int) -> Bytes:
    """Map gradients to bins 10 * number to 10 * number + 9. The bins divide 0 to the largest gradient evenly.

    Negative gradients are in the first bin.
    """
    largest = max(int(gradient.max()), 1)
    table = np.minimum(np.arange(largest + 1) * 10 // (largest + 1), 9) + 10 * number
    return table.astype(np.uint8)[np.maximum(gradient, 0)]
