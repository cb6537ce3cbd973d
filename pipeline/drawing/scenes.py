"""Draws scenes with known boxes: data for the demo and the tests, made only from a seed.

A scene is a textured background with shapes of several classes at many scales. Only the outline depends on
the class; colour, size, place and rotation do not. Shapes may overlap and may extend beyond the edge of the
image, but the share `MIN_VISIBLE` of each stays visible, so that every shape in the image has a label.

Legend: H, W image height and width in pixels; G shapes in the scene; masks mark visible pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

MIN_VISIBLE = 0.75
"""Smallest share of a shape's pixels that is neither covered nor outside the image."""
MIN_SIDE, MAX_SIDE = 30, 130
"""Range of a shape's diameter, in pixels. It is log-uniform: each octave has the same number of shapes."""
MIN_CONTRAST = 70.0
"""Smallest distance in RGB between a shape's colour and the mean colour under it."""
_SUPERSAMPLING = 4
_FRACTION_BITS = 4  # fraction bits in the coordinates that OpenCV gets


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One drawn image and its ground truth.

    The boxes are tight: each is the bounding box of the true pixels of its mask.
    """

    pixels: Pixels
    """(H, W, 3) uint8 RGB."""
    boxes: NDArray[np.float32]
    """(G, 4) xyxy, whole pixels, continuous edges, image frame."""
    labels: tuple[str, ...]
    """G class names."""
    masks: Mask
    """(G, H, W): the pixels where the shape is on top and covers at least half of the pixel."""


def scene_rng(seed: int, index: int) -> np.random.Generator:
    """Make the random generator of scene `index`. So each scene can be drawn alone, in any order."""
    return np.random.default_rng([seed, index])


def draw_scene(
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
    *,
    classes: tuple[str, ...] | None = None,
    max_shapes: int = 5,
    empty_share: float = 0.05,
) -> Scene:
    """Draw one scene.

    Args:
        rng: the only source of randomness; `scene_rng` makes one.
        size: (height, width) in pixels; None draws each side at random, from 180 to 260.
        classes: the names in `SHAPES` that may occur; None means all.
        max_shapes: largest number of shapes.
        empty_share: probability that the scene has no shape.
    """
    height, width = size or (int(rng.integers(180, 261)), int(rng.integers(180, 261)))
    canvas = draw_background(rng, (height, width))
    wanted = 0 if rng.random() < empty_share else int(rng.integers(1, max_shapes + 1))
    names = classes or tuple(SHAPES)
    labels: list[str] = []
    areas: list[float] = []
    masks = np.zeros((0, height, width), dtype=bool)
    # Some places are refused, so there are more attempts than shapes. A crowded scene gets fewer shapes.
    for _ in range(wanted * 6):
        if len(labels) == wanted:
            break
        name = names[rng.integers(len(names))]
        contours, area = _place(rng, SHAPES[name](), (height, width))
        coverage = rasterize(contours, (height, width))
        mask = coverage >= 0.5
        visible = masks & ~mask
        visible_areas = np.append(visible.sum(axis=(1, 2)), mask.sum())
        if (visible_areas < MIN_VISIBLE * np.array([*areas, area])).any():
            continue
        canvas = paint(rng, canvas, coverage, mask)
        masks = np.concatenate([visible, mask[None]])
        labels.append(name)
        areas.append(area)
    noisy = canvas + rng.normal(0.0, rng.uniform(0.0, 7.0), canvas.shape)
    return Scene(
        pixels=np.clip(np.rint(noisy), 0, 255).astype(np.uint8),
        boxes=mask_boxes(masks),
        labels=tuple(labels),
        masks=masks,
    )


def mask_boxes(masks: Mask) -> NDArray[np.float32]:
    """Return the boxes (G, 4) xyxy around the true pixels of `masks` (G, H, W). No mask may be empty."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


# --- outlines: (x, y) within the unit circle; one contour, or two if the shape has a hole ---


def _regular(num_corners: int) -> list[Points]:
    angles = np.arange(num_corners) * 2 * math.pi / num_corners
    return [np.stack([np.cos(angles), np.sin(angles)], axis=1)]


def _circle() -> list[Points]:
    return _regular(96)


def _ring() -> list[Points]:
    outer = _regular(96)[0]
    return [outer, 0.52 * outer]


def _square() -> list[Points]:
    return _regular(4)


def _triangle() -> list[Points]:
    return _regular(3)


def _cross() -> list[Points]:
    arm, half = 0.95, 0.3
    quarter = np.array([[half, half], [arm, half], [arm, -half]])
    turns = [np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, -1), (-1, 0), (0, 1))]
    return [np.concatenate([(quarter @ turn)[::-1] for turn in turns][::-1])]


SHAPES: dict[str, Callable[[], list[Points]]] = {
    "circle": _circle,
    "cross": _cross,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
}
"""Class name -> the function that makes its outline, in the order of the class list."""


def rasterize(contours: list[Points], size: tuple[int, int]) -> NDArray[np.float32]:
    """Compute which share of each pixel closed contours cover, by the even-odd rule.

    Args:
        contours: arrays (N, 2) of corners (x, y) in pixels, continuous: pixel i spans i to i + 1. A contour
            inside another is a hole. Parts outside the image are cut off.
        size: (H, W).

    Returns:
        (H, W) float32, from 0 to 1.
    """
    supersampled = np.zeros((size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING), dtype=np.uint8)
    # In OpenCV integer coordinates are the centres of pixels, hence the shift by half a pixel.
    corners = [(points * _SUPERSAMPLING - 0.5) * 2**_FRACTION_BITS for points in contours]
    cv2.fillPoly(
        supersampled, [np.rint(c).astype(np.int32) for c in corners], 255, shift=_FRACTION_BITS
    )
    covered = cv2.resize(supersampled, size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(covered / 255, dtype=np.float32)


def _place(
    rng: np.random.Generator, outline: list[Points], size: tuple[int, int]
) -> tuple[list[Points], float]:
    """Rotate, stretch and move an outline at random.

    Returns:
        The contours in the image frame, and the area in pixels, including parts outside the image.
    """
    height, width = size
    diameter = math.exp(rng.uniform(math.log(MIN_SIDE), math.log(min(MAX_SIDE, *size))))
    stretch = math.exp(rng.uniform(-0.2, 0.2))  # after the rotation: squares become rhombi too
    angle = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    radii = 0.5 * diameter * np.array([stretch, 1 / stretch])
    centre = rng.uniform(0.3 * radii, np.array([width, height]) - 0.3 * radii)
    contours = [(points @ rotation) * radii + centre for points in outline]
    areas = [cv2.contourArea(points.astype(np.float32)) for points in contours]
    return contours, areas[0] - sum(areas[1:])


def paint(
    rng: np.random.Generator, canvas: NDArray[np.float32], coverage: NDArray[np.float32], mask: Mask
) -> NDArray[np.float32]:
    """Blend a shape over `canvas` (H, W, 3). It has one colour, light from one side and some texture."""
    ground = canvas[mask].mean(axis=0)
    colour = rng.uniform(0, 255, 3)
    while np.linalg.norm(colour - ground) < MIN_CONTRAST:
        colour = rng.uniform(0, 255, 3)
    height, width = mask.shape
    light = _ramp(rng, (height, width))[..., None] * rng.uniform(0, 40)
    texture = _octaves(rng, (height, width))[..., None] * rng.uniform(0, 30)
    fill = colour + light + texture
    alpha = coverage[..., None]
    return np.asarray((1 - alpha) * canvas + alpha * fill, dtype=np.float32)


# --- backgrounds: fields (H, W) from -1 to 1, which mix two colours ---


def draw_background(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """Draw a texture (H, W, 3), 0 to 255: noise in octaves, mixed with a ramp, stripes and a checkerboard."""
    first = rng.uniform(20, 235, 3)
    second = np.clip(first + rng.normal(0, 70, 3), 0, 255)
    fields = [_octaves(rng, size), _ramp(rng, size), _stripes(rng, size), _checkers(rng, size)]
    weights = rng.dirichlet([1.2, 0.6, 0.35, 0.25])
    field = sum(w * f for w, f in zip(weights, fields, strict=True))
    share = np.clip(0.5 + 0.5 * field, 0, 1)[..., None]
    grain = _octaves(rng, size)[..., None] * rng.uniform(0, 25)
    return np.asarray(share * first + (1 - share) * second + grain, dtype=np.float32)


def _octaves(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """Make value noise (H, W): random grids of 2, 4, .. 64 cells a side; finer grids have less weight."""
    height, width = size
    roughness = rng.uniform(0.4, 0.8)
    field = np.zeros(size)
    for octave in range(1, 7):
        grid = rng.uniform(-1, 1, (2**octave + 1, 2**octave + 1))
        field += roughness**octave * cv2.resize(
            grid, (width, height), interpolation=cv2.INTER_CUBIC
        )
    return np.asarray(field / np.abs(field).max(), dtype=np.float64)


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    along = _distance_along(rng, size)
    return np.asarray(along / np.abs(along).max(), dtype=np.float64)


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    waves = np.sin(_distance_along(rng, size) * 2 * math.pi / rng.uniform(7, 45))
    return np.clip(waves * rng.uniform(1, 4), -1, 1)  # from soft waves to hard stripes


def _checkers(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    angle, side = rng.uniform(0, math.pi), rng.uniform(10, 30)
    first, second = (
        np.sign(np.sin(math.pi * _distance_along(rng, size, a) / side))
        for a in (angle, angle + math.pi / 2)
    )
    return np.asarray(first * second, dtype=np.float64)


def _distance_along(
    rng: np.random.Generator, size: tuple[int, int], angle: float | None = None
) -> NDArray[np.float64]:
    """Compute the distance (H, W) of each pixel from the centre along a direction, in pixels.

    `angle` is in radians; None draws one at random.
    """
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float64)
    turn = rng.uniform(0, 2 * math.pi) if angle is None else angle
    along = (columns - size[1] / 2) * math.cos(turn) + (rows - size[0] / 2) * math.sin(turn)
    return np.asarray(along, dtype=np.float64)
