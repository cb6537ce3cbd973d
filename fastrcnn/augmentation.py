"""Data augmentation: random changes to an image and its boxes in training.

An image is (H, W, 3) uint8 RGB. Boxes are (x1, y1, x2, y2) in absolute pixels of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import box_area
from torchvision.transforms.v2 import functional

from fastrcnn.boxes import clip, flip, transpose
from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import Target
from fastrcnn.transform import random_zoom

_NUM_FACTORS = 1 << 16
"""Number of different random factors."""
SAMPLE = "sample"
"""The purpose whose random number is the seed of the image's sample in `fastrcnn.loss.Objective`."""
INSIDE = 0.5
"""Share of an object that must be in the window of a crop. Otherwise it becomes an ignored region."""


def augment(
    pixels: Tensor, target: Target, config: FastRCNNConfig, draw: Callable[[str], int]
) -> tuple[Tensor, Target]:
    """Change an image and its boxes at random.

    Args:
        pixels: (H, W, 3) uint8.
        target: the boxes of the image.
        config: says which flips and turns are allowed, and how much colours may change.
        draw: returns a large random number for the name of a purpose. The same name gives the same number.

    Returns:
        The changed image and its target. A transposed image has the shape (W, H, 3).
    """
    if config.quarter_turns and draw("transposition") % 2:
        pixels, target = transpose_image(pixels, target)
    if config.horizontal_flips and draw("flip") % 2:  # paper, section 4
        pixels, target = flip_image(pixels, target)
    if config.vertical_flips and draw("vertical flip") % 2:
        pixels, target = flip_image(pixels, target, vertically=True)
    factor = random_zoom(config.crop_jitter, draw(SAMPLE)) if config.crop_jitter else 1.0
    if factor > 1:  # below 1, the objective scales the image to a smaller frame
        places = draw("crop x"), draw("crop y")
        pixels, target = crop(pixels, target, window(pixels, factor, places))
    if config.color_jitter:
        pixels = recolour(
            pixels,
            brightness=_factor(config, draw("brightness")),
            contrast=_factor(config, draw("contrast")),
            saturation=_factor(config, draw("saturation")),
        )
    return pixels, target


def flip_image(
    pixels: Tensor, target: Target, *, vertically: bool = False
) -> tuple[Tensor, Target]:
    """Mirror an image and its boxes left to right, or top to bottom if `vertically`."""
    axis = 0 if vertically else 1
    mirror = partial(flip, length=pixels.shape[axis], vertically=vertically)
    return pixels.flip(axis), _move_boxes(target, mirror)


def transpose_image(pixels: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Swap rows and columns of an image and its boxes. Together with a flip this is a quarter turn."""
    return pixels.transpose(0, 1), _move_boxes(target, transpose)


def window(pixels: Tensor, factor: float, places: tuple[int, int]) -> tuple[int, int, int, int]:
    """Choose a window of the shape of the image, with sides shorter by `factor`.

    Args:
        pixels: (H, W, 3).
        factor: above 1.
        places: two large random numbers, for x and y.

    Returns:
        x1, y1, x2, y2 in whole pixels. The window has at least one pixel.
    """
    height, width = (max(round(side / factor), 1) for side in pixels.shape[:2])
    x = places[0] % (pixels.shape[1] - width + 1)
    y = places[1] % (pixels.shape[0] - height + 1)
    return x, y, x + width, y + height


def crop(
    pixels: Tensor, target: Target, window: tuple[int, int, int, int]
) -> tuple[Tensor, Target]:
    """Cut a window out of an image, and its boxes at the window's edges.

    An object stays if at least `INSIDE` of its area is in the window. Otherwise the part that is in the
    window becomes an ignored region: it is neither an object nor background.
    """
    x1, y1, x2, y2 = window
    size = (y2 - y1, x2 - x1)

    def cut(boxes: Tensor) -> Tensor:
        return clip(boxes - boxes.new_tensor([x1, y1, x1, y1]), size)

    gt_boxes, ignored = cut(target.gt_boxes), target.gt_boxes.new_zeros(0, 4)
    stays = box_area(gt_boxes) >= INSIDE * box_area(target.gt_boxes)
    if target.ignored is not None:
        ignored = cut(target.ignored)
    ignored = _not_empty(torch.cat([ignored, gt_boxes[~stays]]))
    return pixels[y1:y2, x1:x2], Target(
        proposals=_not_empty(cut(target.proposals)),
        gt_boxes=gt_boxes[stays],
        gt_labels=target.gt_labels[stays],
        ignored=ignored if len(ignored) else None,
    )


def _not_empty(boxes: Tensor) -> Tensor:
    """Leave out boxes without area."""
    return boxes[box_area(boxes) > 0]


def _move_boxes(target: Target, move: Callable[[Tensor], Tensor]) -> Target:
    """Apply `move` to every box of a target: (N, 4) -> (N, 4)."""
    return target._replace(
        proposals=move(target.proposals),
        gt_boxes=move(target.gt_boxes),
        ignored=None if target.ignored is None else move(target.ignored),
    )


def recolour(pixels: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Multiply brightness, contrast and saturation by one factor each, in this order.

    A factor of 1 changes nothing. It takes 5 ms for 480 x 640 px on one thread.
    """
    planes: Tensor = pixels.permute(2, 0, 1)
    planes = functional.adjust_brightness(planes, brightness)
    planes = functional.adjust_contrast(planes, contrast)
    planes = functional.adjust_saturation(planes, saturation)
    return planes.permute(1, 2, 0)


def _factor(config: FastRCNNConfig, number: int) -> float:
    """Turn a random number into a factor in [1 - color_jitter, 1 + color_jitter]."""
    return 1 + config.color_jitter * (2 * (number % _NUM_FACTORS) / (_NUM_FACTORS - 1) - 1)
