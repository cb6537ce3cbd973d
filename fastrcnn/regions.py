"""Detection in tiles of an image that is not in memory: each tile is decoded when the detector looks at it.

The boxes are those of `fastrcnn.tiled_detection` on the decoded image, but for float rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from fastrcnn.boxes import clip
from fastrcnn.config import FastRCNNConfig
from fastrcnn.detection import Detections, ScoredImage, one_class_each
from fastrcnn.tiled_detection import LOOKS_PER_PASS, Run, join_detections
from fastrcnn.tiles import Tiling, Window, in_window
from fastrcnn.transform import scaled_size

_PASS_PIXELS = 32_000_000
"""Pixels of the tiles of one pass at most, if it has more than one."""


class Regions(Protocol):
    """An image of which parts can be decoded."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), upright."""

    def read(self, window: Window, /) -> npt.NDArray[np.uint8]:
        """Decode a window: (h, w, 3) RGB."""

    def resized(self, size: tuple[int, int], /) -> npt.NDArray[np.float32]:
        """Resize the whole image, bilinear without smoothing: (h, w, 3), values from 0 to 255."""


def detects_in_regions(config: FastRCNNConfig) -> bool:
    """Whether a model can detect in the regions of an image: it has tiles, and one scale."""
    return config.tile is not None and not config.test_scales


def detect_in_regions(
    run: Run,
    image: Regions,
    proposals: npt.NDArray[np.float32] | None,
    config: FastRCNNConfig,
    *,
    looks_per_pass: int = LOOKS_PER_PASS,
    most_whole: int | None = None,
    score_threshold: float | None = None,
    seen: Callable[[int, int], None] | None = None,
) -> ScoredImage | str:
    """Detect objects in the tiles of one image and in the whole image, and join the boxes.

    Args:
        run: the network.
        image: of any size.
        proposals: (P, 4), image frame. None: the model's RPN makes them for each look.
        config: of the model, see `detects_in_regions`.
        looks_per_pass, most_whole, score_threshold: as in `fastrcnn.tiled_detection.detect_looks`.
        seen: called after each pass, with the number of tiles that were looked at and that of all tiles.

    Returns:
        The result. If `run` gives a text for a look, it is the text.
    """
    tiling = Tiling.of(config)
    assert tiling is not None
    windows = tiling.grid(image.size)
    whole = _look_at_whole(run, image, proposals, config, most_whole)
    if isinstance(whole, str):
        return whole
    looks: list[tuple[Window | None, ScoredImage]] = [(None, whole)]
    pixels_each = min(tiling.side, image.size[0]) * min(tiling.side, image.size[1])
    at_once = max(1, min(looks_per_pass, _PASS_PIXELS // pixels_each))
    for first in range(0, len(windows), at_once):
        some = windows[first : first + at_once]
        given = None if proposals is None else [in_window(proposals, window) for window in some]
        outcomes = run([image.read(window) for window in some], given)
        for window, outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, str):
                return outcome
            looks.append((window, outcome))
        if seen is not None:
            seen(first + len(some), len(windows))
    pairs = [(window, one.detections) for window, one in looks]
    count = sum(one.num_proposals for _, one in looks) if proposals is None else len(proposals)
    detections = join_detections(pairs, image.size, config.nms_threshold)
    scored = ScoredImage(detections, count, len(windows))
    return one_class_each(scored, config, score_threshold)


def _look_at_whole(
    run: Run,
    image: Regions,
    proposals: npt.NDArray[np.float32] | None,
    config: FastRCNNConfig,
    most_whole: int | None,
) -> ScoredImage | str:
    """Detect objects in the whole image, which is resized before the network sees it."""
    height, width = image.size
    size = scaled_size(image.size, config.scale, config.max_size, resize=config.resize)
    factors = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    given = None if proposals is None else [proposals[:most_whole] * factors]
    (outcome,) = run([image.resized(size)], given)
    if isinstance(outcome, str):
        return outcome
    boxes, labels, scores = outcome.detections
    boxes = clip(boxes / torch.from_numpy(factors), image.size)
    return outcome._replace(detections=Detections(boxes, labels, scores))
