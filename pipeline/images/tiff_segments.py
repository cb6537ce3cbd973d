"""Decodes the strips and tiles of a TIFF with tifffile and imagecodecs: samples (H, W, B).

Legend: H and W height and width as stored, B the bands that are decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import imagecodecs
import numpy as np
import tifffile

from pipeline.errors import one_line
from pipeline.images.guard import ImageError, header_size
from pipeline.images.samples import Samples
from pipeline.images.tiff_colours import YCBCR, Plan, unpacked_ycbcr
from pipeline.images.tiff_directory import Data, Directory

JPEG_2000 = (33003, 33004, 33005, 34712)
_JPEG, _WEBP, _PNG = (6, 7, 34892), (34927, 50001), (34933,)
_PICTURES = frozenset((*JPEG_2000, *_WEBP, *_PNG, 34887, 50002, 52546, 22610, 34934))
"""Compressions whose strips are pictures with a size: also LERC, JPEG XL and JPEG XR."""
_WHOLE = frozenset((*_JPEG, *_PICTURES))
"""Compressions whose decoders fill up what is missing, so a strip must be in the file whole."""
_ROOM = 4
"""Times the pixels of the image that the picture in a strip or tile may state before it is decoded."""
_LARGEST_TILE = 4096 * 4096
"""Pixels of a tile at most, where it is larger than the whole image."""
_MOST_MARKERS = 1000


ALL_EMPTY = "all its strips or tiles are empty"
_LZW = 5
_FEW_BANDS = 4
"""Bands that libtiff may decode at once. More would take much memory at once."""


def _faster_in_libtiff(d: Directory) -> bool:
    """Return whether libtiff decodes this kind faster: LZW takes half the time of imagecodecs' decoder."""
    usual = d.bits in (8, 16) and d.sample_format == 1 and d.bands <= _FEW_BANDS
    return d.compression == _LZW and usual and not d.planar


def read_samples(
    data: bytes, page: tifffile.TiffPage, d: Directory, plan: Plan
) -> tuple[Samples, str | None]:
    """Decode the strips or tiles: the samples (H, W, B) of the bands of the plan, and a warning or None.

    Raises:
        ImageError: `undecodable`: a strip or tile is missing, cut short, or not of the stated size.
    """
    samples: Samples | None = None
    expected = num_segments(page, d)
    counts = page.databytecounts[:expected]
    if _faster_in_libtiff(d) and all(counts):
        return _by_libtiff(data, d, plan), None
    empty = 0
    for index, count in enumerate(counts):
        band = index * d.bands // expected if d.planar else None
        if band is not None and band not in plan.bands:
            continue
        if count == 0:  # a sparse file leaves them out
            empty += 1
            continue
        part, top, left = decode_segment(data, page, d, index)
        whole = band is None and plan.bands == tuple(range(d.bands))
        if whole and part.shape[:2] == (d.height, d.width):
            samples = part
            break
        if samples is None:
            samples = np.zeros((d.height, d.width, len(plan.bands)), part.dtype)
        target = samples[top : top + part.shape[0], left : left + part.shape[1]]
        part = part[: target.shape[0], : target.shape[1]]
        if band is not None:
            for k in (k for k, wanted in enumerate(plan.bands) if wanted == band):
                target[:, :, k] = part[:, :, 0]
        elif whole:
            target[:] = part
        else:
            target[:] = part[:, :, list(plan.bands)]
    if samples is None:
        raise ImageError("undecodable", ALL_EMPTY)
    return samples, empty_warning(empty, expected)


def empty_warning(empty: int, expected: int) -> str | None:
    """Warn of the strips and tiles that a sparse file leaves out. Their samples are 0."""
    return f"{empty} of {expected} strips or tiles are empty" if empty else None


def decode_segment(
    data: Data, page: tifffile.TiffPage, d: Directory, index: int
) -> tuple[Samples, int, int]:
    """Decode one strip or tile, which is not empty: its samples (h, w, bands), and its place: top and left.

    Raises:
        ImageError: `undecodable`: it is missing, cut short, or not of the stated size.
    """
    encoded = _encoded(data, d, page.dataoffsets[index], page.databytecounts[index])
    _check_room(encoded, d)
    return _part(page, d, index, encoded)


def _by_libtiff(data: bytes, d: Directory, plan: Plan) -> Samples:
    """Decode the first page as `read_samples` does, with the libtiff of imagecodecs."""
    try:
        page: Samples = imagecodecs.tiff_decode(data, index=0).reshape(d.height, d.width, d.bands)
    except RuntimeError as error:
        cause = f"a strip or tile is damaged or cut short (libtiff: {one_line(error)})"
        raise ImageError("undecodable", cause) from error
    return page if plan.bands == tuple(range(d.bands)) else page[:, :, list(plan.bands)]


def _part(
    page: tifffile.TiffPage, d: Directory, index: int, encoded: bytes | memoryview
) -> tuple[Samples, int, int]:
    """Decode one strip or tile: its samples (h, w, bands), and its place: top and left."""
    if d.compression in JPEG_2000:
        page.subsampling = (1, 1)  # the tag does not describe what is inside JPEG 2000
    if d.photometric == YCBCR and d.compression == 1 and not d.planar:
        if page.is_tiled:
            rows, columns = page.tilelength, page.tilewidth
            across = -(-d.width // columns)
            top, left = index // across * rows, index % across * columns
        else:
            top, left, columns = index * page.rowsperstrip, 0, d.width
            rows = min(page.rowsperstrip, d.height - top)
        factors = d.values.get(530, (2, 2))
        return unpacked_ycbcr(encoded, rows, columns, factors), top, left
    _, (_, _, top, left, _), shape = page.decode(None, index)
    sizes = [shape[1:3], (min(shape[1], d.height - top), min(shape[2], d.width - left))]
    if d.compression in _PICTURES:  # tifffile would fold a picture of another size into the strip
        options = {"hasalpha": True} if d.compression in _WEBP and d.bands == 4 else {}
        part = tifffile.TIFF.DECOMPRESSORS[d.compression](encoded, **options)
        _check_size(part.shape[:2], sizes)
        return part.reshape(*part.shape[:2], -1), top, left
    if d.compression in _JPEG:
        _check_size(_jpeg_size(bytes(encoded)), sizes)
    part, _, _ = page.decode(encoded, index, jpegtables=page.jpegtables)
    assert part is not None
    return part[0], top, left


def num_segments(page: tifffile.TiffPage, d: Directory) -> int:
    """Return the number of strips or tiles that the picture needs. Raises `ImageError` if there are fewer."""
    if page.is_tiled:
        if page.tilelength < 1 or page.tilewidth < 1:
            raise ImageError("undecodable", "tiles without a size")
        number = -(-d.height // page.tilelength) * -(-d.width // page.tilewidth)
    else:
        number = -(-d.height // max(1, page.rowsperstrip))
    number *= d.bands if d.planar else 1
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    if listed < number:
        raise ImageError("undecodable", f"it lists {listed} of {number} strips or tiles")
    return number


def _encoded(data: Data, d: Directory, offset: int, count: int) -> bytes | memoryview:
    """Return the bytes of one strip or tile. Raises `ImageError` if the file ends before."""
    end = offset + count
    if end <= len(data):
        if d.compression == 1 and isinstance(data, bytes):
            return memoryview(data)[offset:end]
        return data[offset:end]
    if offset >= len(data) or d.compression in _WHOLE:
        raise ImageError("undecodable", "the file is cut short: a strip or tile lies past its end")
    # Some writers state too many bytes. The decoder refuses a strip that gives too few samples.
    return data[offset:end]


def _check_room(encoded: bytes | memoryview, d: Directory) -> None:
    """Refuse a strip or tile whose picture is much larger than the whole image: it is a bomb."""
    size = None
    if d.compression in _WEBP:
        size = header_size(bytes(encoded), "WEBP")
    elif d.compression in _PNG:
        size = header_size(bytes(encoded), "PNG")
    elif d.compression in JPEG_2000:
        at = bytes(encoded).find(b"\xff\x4f\xff\x51")
        if at >= 0 and at + 16 <= len(encoded):
            width, height = struct.unpack_from(">II", encoded, at + 8)
            size = height, width
    tile = min(d.number(322) * d.number(323), _LARGEST_TILE)
    if size and size[0] * size[1] > _ROOM * max(d.height * d.width, tile):
        _check_size(size, [])


def _check_size(size: tuple[int, ...] | None, expected: Sequence[tuple[int, ...]]) -> None:
    if size is not None and size not in expected:
        cause = f"a strip or tile holds a picture of {size[1]} x {size[0]} pixels"
        raise ImageError("undecodable", f"{cause}, which is not its size")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read (height, width) of the first frame of a JPEG; None if there is no frame."""
    at = 2
    for _ in range(_MOST_MARKERS):
        marker = data[at + 1 : at + 2]
        if not marker or data[at] != 0xFF:
            return None
        if 0xC0 <= marker[0] <= 0xCF and marker[0] not in (0xC4, 0xC8, 0xCC):
            size = data[at + 5 : at + 9]
            return struct.unpack(">HH", size) if len(size) == 4 else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
