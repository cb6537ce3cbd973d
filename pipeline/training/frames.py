"""The sizes that images have when the network sees them: whole, or as tiles. Anchors are fitted to both."""

from __future__ import annotations

from typing import NamedTuple

from fastrcnn.config import FastRCNNConfig
from fastrcnn.tiles import Tiling
from fastrcnn.transform import scale_factor

Size = tuple[int, int]
"""(height, width)."""


class Frame(NamedTuple):
    """One way in which the network sees an image."""

    size: Size
    """Size of the whole image, or of a tile, pixels of the image."""
    factor: float
    """From the image to the model frame."""
    share: float
    """Share of the training in which the image is seen so."""


def frames_of(size: Size, model: FastRCNNConfig) -> list[Frame]:
    """List how a model sees an image of this size: whole first, then in tiles if it has any."""
    tiling = Tiling.of(model)
    whole = scale_factor(size, model.scale, model.max_size)
    if tiling is None or not tiling.divides(size):
        return [Frame(size, whole, 1.0)]
    tile = min(tiling.side, size[0]), min(tiling.side, size[1])
    factor = scale_factor(tile, model.scale, model.max_size)
    return [Frame(size, whole, model.whole_share), Frame(tile, factor, 1 - model.whole_share)]
