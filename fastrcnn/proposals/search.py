"""Selective search (Uijlings et al. 2013), reorganised: about a hundred times faster than OpenCV's.

The image is shrunk; each colour space is segmented once, at the level of pixels; four cheap similarities
group the same regions, whose histograms and neighbours are collected once.
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
"""OpenCV's fast mode has these two; one finds what the other misses."""
UNIT = 4
"""Weights in quarters of a grey level."""
FLAT = 2
"""Grey levels: neighbours no further apart are one component before anything is sorted. 3 costs recall."""
_AMOUNTS = np.arange(
    442 * UNIT, dtype=np.uint32
)  # 442: the distance of black and white, rounded up


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
    """Candidate boxes of an image, best first: regions that grew together.

    The order is each box's rank from the root of its tree times a random number, seeded by (seed, pixels).
    Boxes and order are the same in every thread and process, with AVX-512, AVX2 and SSE2 alike (measured);
    only `exact` adds up float32 in its blur, as OpenCV does it on the CPU at hand. Whatever is None is the
    mode's own (`fastrcnn.config.SELECTIVE_SEARCH_MODES`).

    Args:
        image: (H, W, 3) uint8 RGB, of any size.
        mode: `fast`; `small`, which finds objects below 32 px too, at a third of the speed; `exact`, which is
            OpenCV's fast mode at full resolution (up to 2048 px), as a reference.
        max_boxes: kept, best first.
        min_size: shortest side, pixels of the image (fast: 20, small: 8). An image with no such box is
            its own only box.
        seed: of the order.
        max_side: longer images are shrunk to it first.
        k: scales of the segmentation, rising.
        strategies: one grouping each, e.g. `CTSF`.

    Returns:
        (P, 4) float32 xyxy, continuous edges, image frame, all different, 1 <= P <= max_boxes.

    Raises:
        ValueError: no such mode or strategy, or no image.
    """
    own = _settings(mode, min_size, max_side, k, strategies)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image: {image.dtype} {image.shape}, is (H, W, 3) uint8 with H, W >= 1")
    height, width = image.shape[:2]
    small = _shrink(image, own.max_side)
    scale = np.array([width / small.shape[1], height / small.shape[0]] * 2)
    trees = exact_trees(small, own) if mode == "exact" else _trees(small, own)
    packed, ranks = (np.concatenate(parts) for parts in zip(*trees, strict=True))
    shortest = np.ceil(own.min_size / scale[:2]).astype(int)
    draws = np.uint64(zlib.crc32(small.tobytes()) << 32 | (seed & 0xFFFFFFFF))
    found, keys = kernels().priorities(packed, ranks, draws, shortest[0], shortest[1])
    if not len(found):
        return np.array([[0, 0, width, height]], np.float32)[:max_boxes]
    best = found[np.argsort(keys)[:max_boxes]]  # keys are all different: any sort gives this order
    sides = best[:, None] >> np.array([48, 32, 16, 0], np.uint64) & np.uint64(0xFFFF)
    boxes: npt.NDArray[np.float32] = (sides * scale).astype(np.float32)
    return boxes


def load() -> None:
    """Load the compiled code now, or compile it; the first `selective_search` does it else."""
    kernels()


def _settings(
    mode: str,
    min_size: int | None,
    max_side: int | None,
    k: Sequence[int] | None,
    strategies: Sequence[str] | None,
) -> SelectiveSearchMode:
    if mode not in SELECTIVE_SEARCH_MODES:
        raise ValueError(f"mode={mode!r}: is one of {', '.join(SELECTIVE_SEARCH_MODES)}")
    own = SELECTIVE_SEARCH_MODES[mode]
    own = replace(
        own,
        min_size=own.min_size if min_size is None else min_size,
        max_side=max_side or own.max_side,
        k=tuple(k or own.k),
        strategies=tuple(strategies or own.strategies),
    )
    if not all(name and set(name) <= set(SIMILARITIES) for name in own.strategies):
        raise ValueError(f"strategies={own.strategies}: each is of the letters {SIMILARITIES}")
    if not 1 <= own.max_side <= 0xFFFF:
        raise ValueError(f"max_side={own.max_side}: is from 1 to 65535")
    return own


def _shrink(image: Bytes, max_side: int) -> Bytes:
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shrunk: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(shrunk, dtype=np.uint8)


def _trees(
    small: Bytes, own: SelectiveSearchMode
) -> list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]]:
    """(boxes, ranks) of each colour space."""
    compiled = kernels()
    texture = dense_texture(small)
    trees = []
    for space in COLOR_SPACES:
        planes = planes_of(cv2.cvtColor(small, space))
        right, down = compiled.weights(planes, np.float32(UNIT), 0)
        colors = planes >> np.uint8(4)  # 16 bins a channel
        colors[1] += 16
        colors[2] += 32
        scales = np.array(own.k, np.int64) * UNIT
        trees.append(
            compiled.hierarchies(
                *(right, down, _AMOUNTS, colors, texture, 1, 48, 48 + DENSE_BINS),
                *(FLAT * UNIT, scales, True),
                *(own.min_region, own.max_regions, groupings_of(own.strategies)),
            )
        )
    return trees
