"""Selective search (Uijlings et al. 2013), about a hundred times faster than OpenCV's.

Three changes make it fast. The image is shrunk first. The pixels are segmented only once for each colour
space. The histograms and neighbours of the regions are computed once, and all groupings use them.

Legend: H, W the image; P boxes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fastrcnn.config import SELECTIVE_SEARCH_MODES, SelectiveSearchMode
from fastrcnn.proposals.channels import SIMILARITIES, groupings_of, kernels, planes_of
from fastrcnn.proposals.exact import exact_trees
from fastrcnn.proposals.texture import DENSE_BINS, dense_texture

Bytes = npt.NDArray[np.uint8]

COLOR_SPACES = (cv2.COLOR_RGB2HSV, cv2.COLOR_RGB2Lab)
"""The two colour spaces of OpenCV's fast mode. Some objects are separated in only one of them."""
UNIT = 4
"""Weights of edges between pixels are in quarters of a grey level."""
FLAT = 2
"""Grey levels. Neighbouring pixels with at most this distance are joined before the edges are sorted. A value
of 3 lowers the recall."""
_AMOUNTS = np.arange(442 * UNIT, dtype=np.uint32)
"""The amount of each weight is the weight. 442 grey levels: distance of black and white, rounded up."""


def selective_search(
    image: Bytes,
    *,
    mode: str = "fast",
    max_boxes: int = 2000,
    min_size: int | None = None,
    seed: int = 0,
    max_side: int | None = None,
    k: Sequence[int] | None = None,
    strategies: Sequence[str] | None = None,
) -> npt.NDArray[np.float32]:
    """Make the candidate boxes of an image: the boxes of all regions of all groupings.

    Boxes are sorted by their rank from the root of their tree, times a random number seeded by (seed,
    pixels). Boxes and order are the same in every thread and process, and with AVX-512, AVX2 and SSE2
    (measured). One exception: in mode `exact`, OpenCV's blur adds float32 numbers in an order that depends on
    the CPU.

    A setting that is None gets the mode's value (`fastrcnn.config.SELECTIVE_SEARCH_MODES`).

    Args:
        image: (H, W, 3) uint8 RGB, of any size.
        mode: `fast`; `small`, which also finds objects below 32 px and has a third of the speed; or `exact`,
            which is OpenCV's fast mode at full resolution (up to 2048 px), as a reference.
        max_boxes: number of boxes to keep, best first.
        min_size: smallest width and height of a box, in pixels of the image (fast: 20, small: 8). If an image
            has no such box, the result is the whole image.
        seed: seed of the order.
        max_side: an image with a longer side is shrunk to this side first.
        k: scales of the segmentation, rising.
        strategies: the similarities of each grouping, e.g. `CTSF`.

    Returns:
        (P, 4) float32 xyxy, continuous edges, image frame, all different, best first. 1 <= P <= max_boxes.

    Raises:
        ValueError: the mode or a strategy is unknown, or the array is not an image.
    """
    settings = _settings(mode, min_size, max_side, k, strategies)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"image is {image.dtype} {image.shape}: expected (H, W, 3) uint8 with H, W >= 1"
        )
    height, width = image.shape[:2]
    shrunk_image = _shrink(image, settings.max_side)
    scale = np.array([width / shrunk_image.shape[1], height / shrunk_image.shape[0]] * 2)
    trees = (
        exact_trees(shrunk_image, settings) if mode == "exact" else _trees(shrunk_image, settings)
    )
    packed, ranks = (np.concatenate(parts) for parts in zip(*trees, strict=True))
    shortest = np.ceil(settings.min_size / scale[:2]).astype(int)
    draws = np.uint64(zlib.crc32(shrunk_image.tobytes()) << 32 | (seed & 0xFFFFFFFF))
    different, keys = kernels().priorities(packed, ranks, draws, shortest[0], shortest[1])
    if not len(different):
        return np.array([[0, 0, width, height]], np.float32)[:max_boxes]
    best = different[
        np.argsort(keys)[:max_boxes]
    ]  # all keys differ, so every sort gives this order
    sides = best[:, None] >> np.array([48, 32, 16, 0], np.uint64) & np.uint64(0xFFFF)
    boxes: npt.NDArray[np.float32] = (sides * scale).astype(np.float32)
    return boxes


def load() -> None:
    """Load the compiled code now, or compile it. Otherwise the first `selective_search` does that."""
    kernels()


def _settings(
    mode: str,
    min_size: int | None,
    max_side: int | None,
    k: Sequence[int] | None,
    strategies: Sequence[str] | None,
) -> SelectiveSearchMode:
    """Fill in the values of the mode, and check the result."""
    if mode not in SELECTIVE_SEARCH_MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(SELECTIVE_SEARCH_MODES)}")
    defaults = SELECTIVE_SEARCH_MODES[mode]
    settings = replace(
        defaults,
        min_size=defaults.min_size if min_size is None else min_size,
        max_side=max_side or defaults.max_side,
        k=tuple(k or defaults.k),
        strategies=tuple(strategies or defaults.strategies),
    )
    if not all(name and set(name) <= set(SIMILARITIES) for name in settings.strategies):
        raise ValueError(
            f"strategies={settings.strategies}: expected words of the letters {SIMILARITIES}"
        )
    if not 1 <= settings.max_side <= 0xFFFF:
        raise ValueError(f"max_side={settings.max_side}: expected 1 to 65535")
    return settings


def _shrink(image: Bytes, max_side: int) -> Bytes:
    """Shrink an image (H, W, 3) so that its longer side is at most `max_side`."""
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shrunk: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(shrunk, dtype=np.uint8)


def _trees(
    shrunk_image: Bytes, settings: SelectiveSearchMode
) -> list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]]:
    """Compute (boxes, ranks) for each colour space, as `kernels.hierarchies` returns them."""
    compiled = kernels()
    texture = dense_texture(shrunk_image)
    trees = []
    for space in COLOR_SPACES:
        planes = planes_of(cv2.cvtColor(shrunk_image, space))
        right, down = compiled.weights(planes, np.float32(UNIT), 0)
        colors = planes >> np.uint8(4)  # 16 bins per channel
        colors[1] += 16
        colors[2] += 32
        tree = compiled.hierarchies(
            right,
            down,
            _AMOUNTS,
            colors,
            texture,
            1,  # step
            48,  # color_bins
            48 + DENSE_BINS,  # bins
            FLAT * UNIT,  # limit
            np.array(settings.k, np.int64) * UNIT,  # ks
            True,  # nested
            settings.min_region,
            settings.max_regions,
            groupings_of(settings.strategies),
        )
        trees.append(tree)
    return trees
