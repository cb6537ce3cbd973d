"""Draws large scenes with objects of very different sizes, and mosaics of small labelled images.

They measure detection in tiles: most objects of a large scene are a few pixels wide once the image is shrunk
to the size at which a detector looks at it.

Legend: H, W image height and width in pixels; G objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.drawing.scenes import (
    SHAPES,
    Points,
    Scene,
    draw_background,
    mask_boxes,
    paint,
    rasterize,
)

Box = tuple[float, float, float, float]
SMALL, MEDIUM = 64, 512
"""Largest diameters of small and of medium objects, pixels."""
COUNTS = {"small": 24, "medium": 6, "large": 2}
"""Objects of each kind that are tried in a scene."""
_BACKGROUND = 4
"""The background is drawn with so many times fewer pixels a side: its finest waves are then 60 px long."""
_ROOM = 6.0
"""An object may lie on one that is so many times larger, and on no other."""


def draw_large_scene(
    rng: np.random.Generator, size: tuple[int, int], sides: tuple[float, float] = (8, 4000)
) -> Scene:
    """Draw one scene. Large objects are drawn first, and small ones may lie on them.

    Args:
        rng: the only source of randomness.
        size: (H, W).
        sides: the smallest and the largest diameter of an object, pixels. Each octave of small, of medium and
            of large ones has the same number of objects. No object is larger than two thirds of the image.

    Returns:
        The scene; its masks are empty.
    """
    canvas = _background(rng, size)
    largest = min(sides[1], min(size) / 1.5)
    limits = [sides[0], min(SMALL, largest), min(MEDIUM, largest), largest]
    diameters = [
        math.exp(rng.uniform(math.log(low), math.log(max(low, high))))
        for (low, high), count in zip(
            zip(limits, limits[1:], strict=False), COUNTS.values(), strict=True
        )
        for _ in range(count)
    ]
    boxes, labels = list[Box](), list[str]()
    placed: list[tuple[NDArray[np.float64], float]] = []

    for diameter in sorted(diameters, reverse=True):
        name = tuple(SHAPES)[rng.integers(len(SHAPES))]
        centre = rng.uniform(diameter / 2, np.array(size[::-1]) - diameter / 2)
        if any(
            other < _ROOM * diameter and np.abs(centre - place).max() < 0.6 * (diameter + other)
            for place, other in placed
        ):
            continue
        box = _draw(rng, canvas, SHAPES[name](), diameter, centre)
        if box is not None:
            boxes.append(box)
            labels.append(name)
            placed.append((centre, diameter))
    return Scene(
        pixels=np.clip(np.rint(canvas), 0, 255).astype(np.uint8),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=tuple(labels),
        masks=np.zeros((0, *size), bool),
    )


def make_mosaic(parts: Sequence[Scene], columns: int) -> Scene:
    """Join small scenes to a large one, row by row, in cells of the size of the largest.

    Args:
        parts: at least one; their masks are not used.
    """
    height, width = (max(part.pixels.shape[axis] for part in parts) for axis in (0, 1))
    rows = -(-len(parts) // columns)
    pixels = np.full((rows * height, columns * width, 3), 128, np.uint8)
    boxes = []
    for number, part in enumerate(parts):
        y, x = (number // columns) * height, (number % columns) * width
        pixels[y : y + part.pixels.shape[0], x : x + part.pixels.shape[1]] = part.pixels
        boxes.append(part.boxes.reshape(-1, 4) + np.array([x, y, x, y], np.float32))
    return Scene(
        pixels=pixels,
        boxes=np.concatenate(boxes).astype(np.float32),
        labels=tuple(label for part in parts for label in part.labels),
        masks=np.zeros((0, *pixels.shape[:2]), bool),
    )


def _background(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    small = (-(-size[0] // _BACKGROUND), -(-size[1] // _BACKGROUND))
    canvas = cv2.resize(draw_background(rng, small), size[::-1], interpolation=cv2.INTER_LINEAR)
    noise = rng.standard_normal((256, 256, 1)).astype(np.float32) * rng.uniform(2, 7)
    repeats = (-(-size[0] // 256), -(-size[1] // 256), 1)
    return np.asarray(canvas + np.tile(noise, repeats)[: size[0], : size[1]], np.float32)


def _draw(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    outline: list[Points],
    diameter: float,
    centre: NDArray[np.float64],
) -> Box | None:
    """Paint one object into `canvas`, in place. Return its box; None if it covers no pixel by half."""
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    x, y = np.floor(centre - diameter / 2 - 1).clip(min=0).astype(int).tolist()
    end_x, end_y = np.ceil(centre + diameter / 2 + 1).astype(int).tolist()
    patch = canvas[y:end_y, x:end_x]
    contours = [(points @ turn) * diameter / 2 + centre - (x, y) for points in outline]
    coverage = rasterize(contours, (patch.shape[0], patch.shape[1]))
    mask = coverage >= 0.5
    if not mask.any():
        return None
    patch[:] = paint(rng, patch, coverage, mask)
    left, top, right, bottom = mask_boxes(mask[None])[0].tolist()
    return x + left, y + top, x + right, y + bottom
