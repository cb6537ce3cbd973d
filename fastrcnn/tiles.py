"""Tiles: equal windows of a large image, at which the detector looks besides the whole image.

The objects of a large image are small in the model frame, because the whole image is shrunk to it. A tile is
resized as an image is, so its objects are larger there. This module is geometry only; it imports no torch.

A window is (x1, y1, x2, y2) in whole pixels of the image frame. Sizes are (height, width).

Legend: P boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fastrcnn.config import FastRCNNConfig

Window = tuple[int, int, int, int]
Boxes = npt.NDArray[np.float32]

HALF = 0.5
"""Share of a box that must lie in a window. Otherwise the box does not belong to the window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How an image is divided into tiles."""

    side: int
    """Side of a tile, pixels of the upright image."""
    overlap: float = 0.2
    """Share of `side` that two neighbours have in common. An object no larger than this is whole in some
    tile."""

    @classmethod
    def of(cls, config: FastRCNNConfig) -> Tiling | None:
        """Return the tiling of a model. None: it looks at whole images only."""
        if config.tile is None:
            return None
        return cls(side=config.tile, overlap=config.tile_overlap)

    def divides(self, size: tuple[int, int]) -> bool:
        """Whether an image of this size has tiles: one of its sides is longer than a tile."""
        return max(size) > self.side

    def grid(self, size: tuple[int, int]) -> list[Window]:
        """Return the tiles of an image, row by row.

        They cover the image. The last tile of a row or column is flush with the image's edge, so it overlaps
        its neighbour more. A side that is shorter than a tile has one row or column, of its length.

        Args:
            size: of the upright image.

        Returns:
            The windows. Empty for an image no larger than a tile: it is looked at once, whole.

        Example:
            4000 x 3000 px with side 640 and overlap .2 gives 8 x 6 tiles.
        """
        if not self.divides(size):
            return []
        height, width = (min(self.side, length) for length in size)
        return [
            (x, y, x + width, y + height)
            for y in self._starts(size[0])
            for x in self._starts(size[1])
        ]

    def _starts(self, length: int) -> list[int]:
        """Return the first pixel of each tile along one axis."""
        if length <= self.side:
            return [0]
        shared = min(round(self.overlap * self.side), self.side - 1)
        step = self.side - shared
        count = math.ceil((length - shared) / step)
        return [min(k * step, length - self.side) for k in range(count)]


def mostly_inside(boxes: Boxes, window: Window) -> npt.NDArray[np.bool_]:
    """Mark the boxes (P, 4) of which at least `HALF` is in the window. Boxes without area are not marked."""
    low = np.maximum(boxes[:, :2], np.array(window[:2], np.float32))  # (P, 2)
    common = np.minimum(boxes[:, 2:], np.array(window[2:], np.float32)) - low
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    enough = common.clip(min=0).prod(axis=1) >= HALF * areas
    return np.asarray(enough & (areas > 0))


def in_window(boxes: Boxes, window: Window) -> Boxes:
    """Select the boxes (P, 4) that belong to a window, and give them in its frame, cut at its edges."""
    x, y = window[:2]
    moved = boxes[mostly_inside(boxes, window)] - np.array([x, y, x, y], np.float32)
    limits = np.array([window[2] - x, window[3] - y] * 2, np.float32)
    return moved.clip(0, limits).astype(np.float32)


def in_image(boxes: Boxes, window: Window) -> Boxes:
    """Move boxes (P, 4) from the frame of a window to that of the image."""
    x, y = window[:2]
    return boxes + np.array([x, y, x, y], np.float32)
