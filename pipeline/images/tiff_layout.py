"""Says whether parts of a TIFF can be decoded alone, to the pixels that the whole picture gives."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.images.tiff_directory import Directory, find_picture

SEGMENT_PIXELS = 4096 * 4096
"""Pixels of a strip or tile at most."""
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _YCBCR = 0, 1, 2, 6
"""PhotometricInterpretation."""
_JPEG = 7
_JPEG_2000 = (33003, 33004, 33005, 34712)
_COMPRESSIONS = (1, 5, _JPEG, 8, 32773, 32946, 34925, 50000, *_JPEG_2000)
"""None, LZW, JPEG, deflate twice, PackBits, LZMA, Zstandard, JPEG 2000."""


def whole_only(directories: Sequence[Directory], max_pixels: int) -> str | None:
    """Say why a picture can only be decoded whole. None: its strips or tiles can be decoded alone.

    Args:
        directories: of the file.
        max_pixels: pixels that may be decoded at once.
    """
    d, _ = find_picture(directories)
    if d is not directories[0]:
        return "the picture is not on the first page"
    if d.bits != 8 or d.sample_format not in (1, 4):
        return "its samples are not unsigned with 8 bits"  # others are scaled by all of them
    if d.compression not in _COMPRESSIONS:
        return f"its compression is {d.compression}"
    if d.photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _YCBCR):
        return "its colours are neither gray, RGB nor YCbCr"
    if d.planar or d.extra:
        return "it has transparency, further bands or separate planes"
    if d.photometric == _YCBCR and d.compression != _JPEG:
        return "it is YCbCr without JPEG"
    height, width = d.segment
    if height * width > min(SEGMENT_PIXELS, max_pixels):
        return f"a strip or tile has {width} x {height} pixels"
    return None
