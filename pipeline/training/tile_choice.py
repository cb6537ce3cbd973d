"""Choose the side of the tiles from the sizes of labelled boxes, with a reason. Pure functions.

Tiles are worth their time where objects are small in the model frame although they are larger in the image.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastrcnn.tiles import Tiling
from fastrcnn.transform import scale_factor
from pipeline.training.label_statistics import LabelStatistics

STEP = 32
"""Sides are multiples of it."""
LEAST_GAIN = 1.5
"""Tiles that make objects less than this much larger are not worth their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileChoice:
    """The side of tiles that suits some labels."""

    side: int | None
    """Pixels of the upright image. None: nothing is gained with tiles."""
    reason: str
    sizes: str = ""
    """The median box without and with tiles, for a person. Empty without a side."""


def choose_tile(
    labels: LabelStatistics, scale: int, max_size: int, wanted: tuple[float, float]
) -> TileChoice:
    """Choose the side of tiles.

    The tile is as large as possible, as long as objects have the wanted sides in it. It is never smaller than
    `scale`: a smaller one would only be enlarged, and shows no more than the image has.

    Args:
        labels: of the training images.
        scale, max_size: of the model.
        wanted: sides in the model frame that the smallest tenth of the objects and the median object shall
            have, pixels.

    Example:
        Images of 4000 x 3000 and objects of 33 px (smallest tenth) and 66 px (median), scale 480: the factor
        to the model frame is .16, and the objects have 5 and 11 px. For 24 and 48 px the factor must be .73,
        which is 480 / 660. The tiles have 640 px.
    """
    if labels.side_p10 is None or labels.side_p50 is None:
        return TileChoice(side=None, reason="no tiles, because the size of no image is known")
    assert labels.short_side is not None
    assert labels.long_side is not None
    size = labels.short_side, labels.long_side
    sides = [share * size[0] for share in (labels.side_p10, labels.side_p50)]  # pixels of the image
    factor = scale_factor(size, scale, max_size)
    small, median = (side * factor for side in sides)
    now = f"{small:.0f} px (smallest tenth) and {median:.0f} px (median) in the model frame"
    if small >= wanted[0] and median >= wanted[1]:
        reason = f"no tiles, because objects are large enough in whole images: {now}"
        return TileChoice(side=None, reason=reason)
    needed = max(goal / side for goal, side in zip(wanted, sides, strict=True))
    side = -(-scale // STEP) * STEP
    while side < size[1] and _factor(side + STEP, size, scale, max_size) >= needed:
        side += STEP
    gain = _factor(side, size, scale, max_size) / factor
    if gain < LEAST_GAIN:
        reason = f"no tiles, because they would make objects only {gain:.2g} times as large: {now}"
        return TileChoice(side=None, reason=reason)
    number = len(Tiling(side=side).grid(size))
    reason = (
        f"objects have {now} at --scale {scale} in whole images of {size[1]} x {size[0]} px, and"
        f" {small * gain:.0f} and {median * gain:.0f} px in tiles; {number} tiles an image"
    )
    sizes = (
        f"median box {median:.0f} px in the model frame at --scale {scale}; with --tile {side}:"
        f" {median * gain:.0f} px"
    )
    return TileChoice(side=side, reason=reason, sizes=f"{sizes} ({number} tiles an image)")


def _factor(side: int, size: tuple[int, int], scale: int, max_size: int) -> float:
    """Return the factor of a tile to the model frame. A tile is not higher or wider than its image."""
    return scale_factor((min(side, size[0]), min(side, size[1])), scale, max_size)
