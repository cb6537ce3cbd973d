"""A dense grid of boxes with fixed sizes and shapes.

It covers the whole image. It takes microseconds, because it does not read the pixels.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

RATIOS = (2 / 3, 1.0, 3 / 2)
"""Values of height / width. An object twice as long as wide still has IoU .75 with the nearest shape."""
SCALE_STEP = 2 ** (2 / 3)
"""Ratio of two neighbouring sides. With it and `SHARE_GROWTH`, 4000 boxes have recall .97 to 1.0 at IoU .5 on
objects of 27 to 260 px in 640 x 480 photos (bccd). Steps of 2**.5 and 2, and growths of 0 and .5, have
less."""
SHARE_GROWTH = 0.25
"""The distance between neighbouring boxes, as a share of their side, is proportional to side**-SHARE_GROWTH.
With equal shares most boxes would have the smallest side. With equal distances too few would have it."""


Shapes = tuple[tuple[float, float], ...]
"""(height, width) of boxes, as shares of the image's shorter side."""


def grid(
    size: tuple[int, int],
    *,
    max_boxes: int = 2000,
    min_size: int = 20,
    shapes: Shapes | None = None,
) -> npt.NDArray[np.float32]:
    """Place boxes over an image, as densely as `max_boxes` allows.

    Without `shapes`, the sides of the boxes run from the image's shorter side down to `min_size` in steps of
    `SCALE_STEP`, each with all `RATIOS`.

    Args:
        size: (height, width) of the image, pixels.
        max_boxes: the largest P.
        min_size: square root of the area of the smallest boxes, pixels. Not used with `shapes`.
        shapes: shapes fitted to a data set by `fastrcnn.anchors.fit_grid`. None: the regular ones above.

    Returns:
        (P, 4) float32 xyxy inside the image, largest first. The whole image is always one of them.
    """
    height, width = size
    kinds = _regular_kinds(size, min_size) if shapes is None else _fitted_kinds(size, shapes)
    low, high = 1e-3, 64.0
    for _ in range(40):  # bisection: a larger distance gives fewer boxes
        distance = (low * high) ** 0.5
        if 1 + sum(len(x) * len(y) for _, _, x, y in _lattice(size, kinds, distance)) > max_boxes:
            low = distance
        else:
            high = distance
    boxes = [np.array([[0, 0, width, height]], dtype=np.float32)]
    for box_width, box_height, x, y in _lattice(size, kinds, high):
        x1, y1 = (a.ravel() for a in np.meshgrid(x, y))
        boxes.append(np.stack([x1, y1, x1 + box_width, y1 + box_height], axis=1).astype(np.float32))
    all_boxes = np.concatenate(boxes)
    # Duplicates occur: the largest box of a square image is the whole image.
    _, first = np.unique(all_boxes, axis=0, return_index=True)
    return all_boxes[np.sort(first)][:max_boxes]


Kind = tuple[float, float, float]
"""side (square root of the area), height and width of boxes, pixels."""


def _regular_kinds(size: tuple[int, int], min_size: int) -> list[Kind]:
    """List all combinations of side and ratio that fit into the image."""
    height, width = size
    largest = float(min(height, width))
    count = 1 + max(0, int(np.floor(np.log(largest / min_size) / np.log(SCALE_STEP))))
    sides = [largest * SCALE_STEP**-level for level in range(count)]
    kinds = [(side, side * ratio**0.5, side / ratio**0.5) for side in sides for ratio in RATIOS]
    return [(s, h, w) for s, h, w in kinds if h <= height and w <= width]


def _fitted_kinds(size: tuple[int, int], shapes: Shapes) -> list[Kind]:
    """Turn shapes into pixels. Boxes are cut to the image and are at least one pixel high and wide."""
    height, width = size
    shorter = float(min(height, width))
    unclipped = ((max(h * shorter, 1.0), max(w * shorter, 1.0)) for h, w in shapes)
    cut = [(min(h, float(height)), min(w, float(width))) for h, w in unclipped]
    return [((h * w) ** 0.5, h, w) for h, w in cut]


def _lattice(
    size: tuple[int, int], kinds: list[Kind], distance: float
) -> list[tuple[float, float, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Compute (width, height, left edges, top edges) of the boxes of each kind.

    Args:
        distance: distance between the largest boxes, as a share of their width and height.
    """
    height, width = size
    largest = max((side for side, _, _ in kinds), default=1.0)
    rows = []
    for side, box_height, box_width in kinds:
        share = distance * (largest / side) ** SHARE_GROWTH
        x = _edges(width - box_width, share * box_width)
        y = _edges(height - box_height, share * box_height)
        rows.append((box_width, box_height, x, y))
    return rows


def _edges(room: float, step: float) -> npt.NDArray[np.float64]:
    """Place edges evenly from 0 to `room`, at most `step` apart."""
    if room <= 0:
        return np.zeros(1)
    return np.linspace(0.0, room, 1 + max(0, int(np.ceil(room / step))))


@functools.lru_cache(maxsize=64)
def _cached_grid(
    size: tuple[int, int], max_boxes: int, min_size: int, shapes: Shapes | None
) -> npt.NDArray[np.float32]:
    """Return the `grid` of an image size, read-only."""
    boxes = grid(size, max_boxes=max_boxes, min_size=min_size, shapes=shapes)
    boxes.setflags(write=False)
    return boxes


def grid_proposals(
    image: npt.NDArray[np.uint8],
    *,
    mode: str = "fast",
    max_boxes: int = 2000,
    min_size: int | None = None,
    seed: int = 0,
    shapes: Shapes | None = None,
) -> npt.NDArray[np.float32]:
    """Place a `grid` over an image (H, W, 3). `mode` and `seed` change nothing; all proposers have them.

    Most data sets have few image sizes, so the grids of the last sizes are cached. The caller gets a copy.
    """
    size, smallest = (image.shape[0], image.shape[1]), 20 if min_size is None else min_size
    return _cached_grid(size, max_boxes, smallest, shapes).copy()
