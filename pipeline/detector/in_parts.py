"""Scores images that are too large to be decoded whole: tiles are decoded when the network sees them."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fastrcnn.detection import ScoredImage
from fastrcnn.tiles import Tiling
from pipeline.errors import StorageError, one_line
from pipeline.images import ImageError
from pipeline.images.regions import HEAD_BYTES, StoredBytes, has_parts, is_tiff
from pipeline.storage import Access

if TYPE_CHECKING:
    from pipeline.detector import Detector

logger = logging.getLogger(__name__)

PROGRESS_S = 60.0
"""Seconds between two lines about an image."""


def decoded_in_parts(candidates: pa.Table, detector: Detector) -> list[int]:
    """List the rows of CANDIDATE whose images are decoded in parts: those that are not in memory, and larger
    ones than `detector.max_pixels` whose format allows it."""
    if not detector.network.in_parts:
        return []
    rows = []
    statuses = candidates["status"].to_pylist()
    for index, (status, image) in enumerate(zip(statuses, candidates["image"], strict=True)):
        if status != "ok":
            continue
        if not image.is_valid:
            rows.append(index)
        elif is_tiff(image.as_buffer()[:HEAD_BYTES].to_pybytes()):
            if has_parts(image.as_py(), detector.max_pixels):
                rows.append(index)
    return rows


def score_in_parts(
    detector: Detector, row: dict[str, Any], access: Access, looks_per_pass: int | None = None
) -> ScoredImage | str | None:
    """Score one image in its tiles, and state its size and warning in the row.

    Args:
        row: a row of CANDIDATE. If the image cannot be read or decoded, it gets the status and the cause.

    Returns:
        The result; a text instead of it is the reason why it is missing. None: the row says why.
    """
    data = row["image"]
    if data is None:
        data = StoredBytes(row["image_uri"], row["size_bytes"], row["etag"], access)
    proposals = None
    if row["proposals"] is not None:
        proposals = np.frombuffer(row["proposals"], np.float32).reshape(-1, 4).copy()
    try:
        seen = _Progress(row["image_uri"])
        outcome, image = detector.score_data(data, proposals, looks_per_pass, seen)
    except (ImageError, StorageError) as error:
        row |= {"status": error.status, "error": one_line(error), "width": None, "height": None}
        return None
    row |= {"width": image.size[1], "height": image.size[0], "error": image.warning}
    return outcome


def check_tile(size: tuple[int, int], tiling: Tiling, max_pixels: int) -> None:
    """Raise ImageError (`too_large`) if a tile of an image has more pixels than may be decoded at once."""
    height, width = (min(length, tiling.side) for length in size)
    if height * width > max_pixels:
        raise ImageError(
            "too_large",
            f"{size[1]} x {size[0]} is more than {max_pixels} pixels (--max-pixels), and so is a tile of"
            f" {width} x {height}",
        )


class _Progress:
    """Logs once a minute how many tiles of an image were looked at."""

    def __init__(self, uri: str) -> None:
        self._uri, self._began = uri, time.monotonic()
        self._next = self._began + PROGRESS_S

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PROGRESS_S
        seconds = now - self._began
        left = seconds * (total - done) / done
        # Workers show no lines of the level INFO.
        logger.warning("%s: %d of %d tiles, %.0f s left", self._uri, done, total, left)
