"""Decodes parts of a TIFF: windows of the upright picture, and the whole picture resized. It runs behind the
fence.

Only the strips and tiles that a part touches are decoded. The pixels are those that
`pipeline.images.tiff.decode_tiff` gives.

Legend: H and W height and width of the upright picture; h and w those of a part.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from pipeline.images.guard import ImageError, check_pixels
from pipeline.images.metadata import TURNED, icc_warning
from pipeline.images.pillow import upright
from pipeline.images.samples import Pixels, SampleRules
from pipeline.images.tiff import check_supported
from pipeline.images.tiff_colours import plan_bands, to_rgb
from pipeline.images.tiff_directory import Data, find_picture, frames, read_directories
from pipeline.images.tiff_layout import whole_only
from pipeline.images.tiff_segments import ALL_EMPTY, decode_segment, empty_warning, num_segments

MOST_TIMES = 10
"""An image that is decoded in parts has at most so many times the pixels that may be decoded at once."""
_CACHE_BYTES = 384 * 2**20
"""Decoded strips and tiles that are kept: the next window shares some. In an image of 30,000 px, a row of
tiles of 512 px has 46 MB."""

Indices = npt.NDArray[np.int64]


class TiffRegions:
    """The full picture of a TIFF file, of which parts are decoded.

    Args:
        file: the file, for tifffile.
        data: its bytes.
        max_pixels: pixels that may be decoded at once.
        rules: how samples become pixels.

    Raises:
        ImageError: `too_large`: its parts cannot be decoded alone, or it has more than `MOST_TIMES` times
            `max_pixels`. `undecodable`: it is damaged.
    """

    def __init__(self, file: BinaryIO, data: Data, max_pixels: int, rules: SampleRules) -> None:
        directories, more = read_directories(data)
        directory, note = find_picture(directories)
        check_supported(directory)
        check_pixels(directory.height, directory.width, MOST_TIMES * max_pixels)
        self._data, self._directory, self._rules = data, directory, rules
        if cause := whole_only(directories, max_pixels):
            raise ImageError("too_large", f"no parts of it are decoded: {cause}")
        file.seek(0)  # tifffile takes the position for the start of the file
        page = tifffile.TiffFile(file).pages[0]
        assert isinstance(page, tifffile.TiffPage)
        self._page = page
        self._counts = page.databytecounts[: num_segments(page, directory)]
        height, width = directory.segment
        number = -(-directory.height // height) * -(-directory.width // width)
        if number != len(self._counts):
            cause = f"its tags state {number} strips or tiles, and it has {len(self._counts)}"
            raise ImageError("undecodable", cause)
        if not any(self._counts):
            raise ImageError("undecodable", ALL_EMPTY)
        self._plan = plan_bands(directory, rules)
        self._cache = OrderedDict[int, Pixels]()
        self._room = min(_CACHE_BYTES, 3 * max_pixels)
        empty = empty_warning(self._counts.count(0), len(self._counts))
        notes = (empty, *self._plan.notes, note, frames(directories, more))
        self.warning = "; ".join(n for n in (*notes, icc_warning(directory.icc)) if n) or None
        """What a careful user should know, as of the whole picture."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self._directory.height, self._directory.width
        return (width, height) if self._directory.orientation in TURNED else (height, width)

    def read(self, window: tuple[int, int, int, int]) -> Pixels:
        """Decode a window (x1, y1, x2, y2) of the upright picture: (h, w, 3)."""
        x1, y1, x2, y2 = window
        return self._picked(np.arange(y1, y2), np.arange(x1, x2))

    def resized(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Resize the picture, bilinear without smoothing, as `fastrcnn.transform` resizes an image.

        A pixel of the result is a mean of four pixels, so only these are kept of each strip or tile.

        Args:
            size: (h, w).

        Returns:
            (h, w, 3), values from 0 to 255.
        """
        (top, bottom, down), (left, right, across) = map(_taps, self.size, size)
        rows, columns = np.union1d(top, bottom), np.union1d(left, right)
        pixels = self._picked(rows, columns).astype(np.float32)
        y1, y2 = np.searchsorted(rows, top), np.searchsorted(rows, bottom)
        x1, x2 = np.searchsorted(columns, left), np.searchsorted(columns, right)
        weight = across[:, None]
        upper, lower = (
            pixels[y][:, x1] * (1 - weight) + pixels[y][:, x2] * weight for y in (y1, y2)
        )
        below = down[:, None, None]
        return np.ascontiguousarray(upper * (1 - below) + lower * below)

    def _picked(self, rows: Indices, columns: Indices) -> Pixels:
        """Decode the pixels at these rows and columns of the upright picture, both ascending: (h, w, 3)."""
        d = self._directory
        if d.orientation in (3, 4, 7, 8):
            rows = (self.size[0] - 1 - rows)[::-1]
        if d.orientation in (2, 3, 6, 7):
            columns = (self.size[1] - 1 - columns)[::-1]
        if d.orientation in TURNED:
            rows, columns = columns, rows
        height, width = d.segment
        num_across = -(-d.width // width)
        picked = np.zeros((len(rows), len(columns), 3), np.uint8)
        for down in np.unique(rows // height).tolist():
            some_rows = _between(rows, down * height, (down + 1) * height)
            for across in np.unique(columns // width).tolist():
                some_columns = _between(columns, across * width, (across + 1) * width)
                segment = self._segment(down * num_across + across)
                here = rows[some_rows] - down * height, columns[some_columns] - across * width
                picked[some_rows, some_columns] = segment[_slice(here[0])][:, _slice(here[1])]
        return upright(picked, d.orientation)

    def _segment(self, index: int) -> Pixels:
        """Return a strip or tile as stored, (h, w, 3): decoded now, or kept from before."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        d, bands = self._directory, self._plan.bands
        if self._counts[index]:
            samples = decode_segment(self._data, self._page, d, index)[0]
            if bands != tuple(range(d.bands)):
                samples = samples[:, :, list(bands)]
        else:  # a sparse file leaves it out
            samples = np.zeros((*d.segment, len(bands)), np.uint8)
        pixels, _ = to_rgb(samples, self._plan, d, self._rules, None, None)
        while self._cache and sum(map(_num_bytes, self._cache.values())) > self._room:
            self._cache.popitem(last=False)
        self._cache[index] = pixels
        return pixels


def _taps(length: int, size: int) -> tuple[Indices, Indices, npt.NDArray[np.float32]]:
    """Say of which pixels a resized row or column is the mean, and with which weight of the second.

    The arithmetic is that of torch's `interpolate` (bilinear, align_corners=False), in float32.
    """
    scale = np.float32(length) / np.float32(size)
    at = (scale * (np.arange(size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)).clip(0)
    first = np.minimum(at.astype(np.int64), length - 1)
    second = np.minimum(first + 1, length - 1)
    return first, second, (at - first.astype(np.float32)).clip(0, 1)


def _between(indices: Indices, low: int, high: int) -> slice:
    """Return which of some ascending indices are from `low` to below `high`."""
    first, last = np.searchsorted(indices, (low, high)).tolist()
    return slice(first, last)


def _slice(indices: Indices) -> slice | Indices:
    """Turn ascending indices into a slice if there is no gap: numpy copies it faster."""
    first, last = int(indices[0]), int(indices[-1])
    return slice(first, last + 1) if last - first + 1 == len(indices) else indices


def _num_bytes(pixels: Pixels) -> int:
    return pixels.nbytes
