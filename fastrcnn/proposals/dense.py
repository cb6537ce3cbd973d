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


Shapes = tuple[tuple[float, float], ...]
"""(height, width) of boxes, as shares of the image's shorter side."""


def grid(
    size: tuple[int, int],
    *,
    max_boxes: int = 2000,
    min_size: int = 20,
    shapes: Shapes | None = None,
) -> npt.NDArray[np.float32]:
    """Boxes over an image, as dense as `max_boxes` allows, large ones first.

    Sides fall by `SCALE_STEP` from the image's shorter side to `min_size`, each in all of `RATIOS`; or boxes
    have the shapes that `fastrcnn.anchors.fit_grid` found in a data set.

    Args:
        size: (height, width) of the image, pixels.
        max_boxes: at most so many.
        min_size: geometric mean side of the smallest boxes, where no shapes are given.
        shapes: shares of the image's shorter side.

    Returns:
        (P, 4) float32 xyxy inside the image, best (largest) first; the whole image is always among them.
    """
    height, width = size
    kinds = _even(size, min_size) if shapes is None else _fitted(size, shapes)
    low, high = 1e-3, 64.0
    for _ in range(40):  # halve: the count falls as the distance grows
        middle = (low * high) ** 0.5
        if 1 + sum(len(x) * len(y) for _, _, x, y in _lattice(size, kinds, middle)) > max_boxes:
            low = middle
        else:
            high = middle
    boxes = [np.array([[0, 0, width, height]], dtype=np.float32)]
    for box_width, box_height, x, y in _lattice(size, kinds, high):
        x1, y1 = (a.ravel() for a in np.meshgrid(x, y))
        boxes.append(np.stack([x1, y1, x1 + box_width, y1 + box_height], axis=1).astype(np.float32))
    together = np.concatenate(boxes)
    _, first = np.unique(
        together, axis=0, return_index=True
    )  # a square image is its own largest box
    return together[np.sort(first)][:max_boxes]


Kind = tuple[float, float, float]
"""side, height, width of boxes, pixels."""


def _even(size: tuple[int, int], min_size: int) -> list[Kind]:
    """Of every side and ratio that fits."""
    height, width = size
    largest = float(min(height, width))
    count = 1 + max(0, int(np.floor(np.log(largest / min_size) / np.log(SCALE_STEP))))
    sides = [largest * SCALE_STEP**-level for level in range(count)]
    kinds = [(side, side * ratio**0.5, side / ratio**0.5) for side in sides for ratio in RATIOS]
    return [(s, h, w) for s, h, w in kinds if h <= height and w <= width]


def _fitted(size: tuple[int, int], shapes: Shapes) -> list[Kind]:
    """Of each shape, cut to the image, and no smaller than a pixel."""
    height, width = size
    shorter = float(min(height, width))
    wanted = ((max(h * shorter, 1.0), max(w * shorter, 1.0)) for h, w in shapes)
    cut = [(min(h, float(height)), min(w, float(width))) for h, w in wanted]
    return [((h * w) ** 0.5, h, w) for h, w in cut]


def _lattice(
    size: tuple[int, int], kinds: list[Kind], distance: float
) -> list[tuple[float, float, npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """(width, height, left edges, top edges) of each kind."""
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
    return (
        np.linspace(0.0, room, 1 + max(0, int(np.ceil(room / step)))) if room > 0 else np.zeros(1)
    )


@functools.lru_cache(maxsize=64)
def _cached_grid(
    size: tuple[int, int], max_boxes: int, min_size: int, shapes: Shapes | None
) -> npt.NDArray[np.float32]:
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
    """`grid` over an image (H, W, 3); `mode` and `seed` are of the common signature and change nothing.

    Buckets hold few sizes, so the last ones are remembered; the copy is the caller's own.
    """
    size, smallest = (image.shape[0], image.shape[1]), 20 if min_size is None else min_size
    return _cached_grid(size, max_boxes, smallest, shapes).copy()
