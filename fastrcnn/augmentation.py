"""What training does to an image and its boxes, so that few images show more of what there is to see.

An image is (H, W, 3) uint8 RGB; boxes are absolute pixels of it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms.v2 import functional

from fastrcnn.boxes import flip, transpose
from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import Target

_DRAWN = 1 << 16


def augment(
    pixels: Tensor, target: Target, config: FastRCNNConfig, draw: Callable[[str], int]
) -> tuple[Tensor, Target]:
    """An image as training sees it this time.

    Args:
        config: which turns, and how much of another colour.
        draw: a large random number for a purpose, the same whenever it is asked for again.
    """
    if config.quarter_turns and draw("transposition") % 2:
        pixels, target = transpose_image(pixels, target)
    if draw("flip") % 2:  # paper, section 4
        pixels, target = flip_image(pixels, target)
    if config.vertical_flips and draw("vertical flip") % 2:
        pixels, target = flip_image(pixels, target, vertically=True)
    if config.color_jitter:
        pixels = recolour(
            pixels, *(_factor(config, draw(n)) for n in ("brightness", "contrast", "saturation"))
        )
    return pixels, target


def flip_image(
    pixels: Tensor, target: Target, *, vertically: bool = False
) -> tuple[Tensor, Target]:
    """Mirror an image and everything that is known about it together."""
    axis = 0 if vertically else 1
    proposals, gt_boxes = (
        flip(boxes, pixels.shape[axis], vertically=vertically)
        for boxes in (target.proposals, target.gt_boxes)
    )
    return pixels.flip(axis), Target(proposals, gt_boxes, target.gt_labels)


def transpose_image(pixels: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Swap rows and columns: with a flip, a quarter turn."""
    proposals, gt_boxes = map(transpose, (target.proposals, target.gt_boxes))
    return pixels.transpose(0, 1), Target(proposals, gt_boxes, target.gt_labels)


def recolour(pixels: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Multiply all three, in this order; 1 leaves as it is. 5 ms for 480 x 640 px on a thread."""
    planes: Tensor = pixels.permute(2, 0, 1)
    planes = functional.adjust_brightness(planes, brightness)
    planes = functional.adjust_contrast(planes, contrast)
    planes = functional.adjust_saturation(planes, saturation)
    return planes.permute(1, 2, 0)


def _factor(config: FastRCNNConfig, drawn: int) -> float:
    """In [1 - color_jitter, 1 + color_jitter]."""
    return 1 + config.color_jitter * (2 * (drawn % _DRAWN) / (_DRAWN - 1) - 1)
