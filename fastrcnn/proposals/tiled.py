"""Proposals of an image that is looked at in tiles: those of the whole image, then those of each tile."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastrcnn.config import ProposalConfig
from fastrcnn.proposals import propose
from fastrcnn.tiles import Tiling, in_image


def propose_on_tiles(
    image: npt.NDArray[np.uint8], config: ProposalConfig, tiling: Tiling | None
) -> npt.NDArray[np.float32]:
    """Make the proposals of an image and of each of its tiles, and join them in the image frame.

    Args:
        image: (H, W, 3) uint8 RGB.
        config: the proposer. Its `max_boxes` holds for the whole image and for each tile.
        tiling: None: the image has no tiles.

    Returns:
        (P, 4) float32 xyxy, image frame. First those of the whole image, best first; then those of each tile,
        in the order of the grid.

    Raises:
        KeyError: the proposer does not make boxes from an image alone.
    """
    boxes = [propose(image, config)]
    if tiling is not None:
        for window in tiling.grid((image.shape[0], image.shape[1])):
            x1, y1, x2, y2 = window
            tile = np.ascontiguousarray(image[y1:y2, x1:x2])
            boxes.append(in_image(propose(tile, config), window))
    return np.concatenate(boxes)
