"""What a training step shows of a large image: a window of the size of a tile, or the whole image.

The choice depends only on the random numbers of the image's place in the run, so a resumed run and one with
another number of workers show the same windows.

Legend: H, W height and width of an image; G objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fastrcnn.augmentation import crop
from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import Target
from fastrcnn.tiles import Boxes, Tiling, Window, mostly_inside

AROUND = 0.5
"""Share of the windows that are placed around an object, in images that have one. The others are placed
anywhere, and most of them are empty. With all windows around objects, a detector would never see the ground
that most tiles of a large image show."""
_STEPS = 1 << 16
"""Number of different random shares."""


def show(
    pixels: Tensor,
    target: Target,
    config: FastRCNNConfig,
    draw: Callable[[str], int],
    max_proposals: int | None = None,
) -> tuple[Tensor, Target]:
    """Cut the window that a training step shows out of an image, with its boxes.

    An object stays if half of it or more is in the window. The rest of any other object is an ignored region.
    Proposals stay if half of them or more is in the window.

    Args:
        pixels: (H, W, 3) uint8.
        target: the boxes of the image.
        config: without `tile`, nothing is changed.
        draw: returns a large random number for the name of a purpose. The same name gives the same number.
        max_proposals: proposals of a whole image at most: the first ones, which were made for it. None: all.
    """
    tiling = Tiling.of(config)
    if tiling is None:
        return pixels, target
    size = int(pixels.shape[0]), int(pixels.shape[1])
    window = window_of(size, target.gt_boxes.numpy(), tiling, config.whole_share, draw)
    if window is None:
        return pixels, target._replace(proposals=target.proposals[:max_proposals])
    inside = torch.from_numpy(mostly_inside(target.proposals.numpy(), window))
    pixels, target = crop(pixels, target._replace(proposals=target.proposals[inside]), window)
    return pixels.clone(), target  # a view would keep the whole image in memory


def window_of(
    size: tuple[int, int],
    objects: Boxes,
    tiling: Tiling,
    whole_share: float,
    draw: Callable[[str], int],
) -> Window | None:
    """Choose what to show of an image.

    Args:
        size: (H, W).
        objects: (G, 4), image frame.
        tiling: gives the size of the window.
        whole_share: probability of the whole image.
        draw: as in `show`.

    Returns:
        A window of the size of a tile. None: the whole image, always for one no larger than a tile.
    """
    if not tiling.divides(size) or _share(draw("window")) < whole_share:
        return None
    height, width = (min(tiling.side, length) for length in size)
    fitting = objects[(objects[:, 2:] - objects[:, :2] <= (width, height)).all(axis=1)]
    places = draw("window x"), draw("window y")
    if len(fitting) and _share(draw("window around")) < AROUND:
        box = fitting[draw("window object") % len(fitting)]
    else:
        box = np.array([0, 0, size[1], size[0]], np.float32)  # anywhere in the image
    x, y = (
        _start(length, side, (float(box[axis]), float(box[axis + 2])), places[axis])
        for axis, (length, side) in enumerate(((size[1], width), (size[0], height)))
    )
    return x, y, x + width, y + height


def _start(length: int, side: int, interval: tuple[float, float], place: int) -> int:
    """Choose the first pixel of a window along one axis.

    Args:
        length: of the image.
        side: of the window.
        interval: the window contains it if it is shorter than the window; else it contains the window.
        place: a large random number.
    """
    first, last = math.floor(interval[0]), math.ceil(interval[1]) - side
    low, high = (min(max(end, 0), length - side) for end in sorted((first, last)))
    return low + place % (high - low + 1)


def _share(number: int) -> float:
    """Turn a random number into a share, from 0 to below 1."""
    return number % _STEPS / _STEPS
