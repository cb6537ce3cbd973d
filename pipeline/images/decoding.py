"""Encoded bytes -> upright 8-bit RGB pixels, or the reason why not.

    bytes -> decoding.guard, .jpeg: format by content, caps by header -> plain JPEG: decoded here
                                                                      -> all else:   behind the fence

A plain JPEG (8 bits, gray or YCbCr, few scans, whole markers) is nearly all of most buckets and is decoded
by libjpeg-turbo through simplejpeg, the least that lies between the two (`jobs/benchmark.py decode`). Every
other format, everything odd, and what has killed a worker once goes through Pillow in another process with
limits (`pipeline.images.fence`), as does a plain JPEG of which libjpeg-turbo so much as warns: Pillow has
the last word, and says why. Which way an image takes depends on its bytes alone, so it gives the same pixels
wherever it is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.images.fence import fence
from pipeline.images.guard import ImageError, check_pixels, header_size, sniff
from pipeline.images.jpeg import Jpeg, read_jpeg
from pipeline.images.metadata import TURNED, icc_warning
from pipeline.images.pillow import upright

__all__ = [
    "DECODER_VERSION",
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "DecodedImage",
    "ImageError",
    "decode",
    "read_size",
]

DECODER_VERSION = 1
"""Raised when some image's pixels come out differently than before. Every shard says which one made it."""

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pnm",
)
"""Lower case; compare names without regard to case. Used for listing only: content decides."""

MAX_BYTES = 100_000_000
"""Of an encoded image, where no flag says another number."""
MAX_PIXELS = 100_000_000
"""Of a decoded one."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One image in the frame that all boxes refer to."""

    pixels: npt.NDArray[np.uint8]
    """(H, W, 3) RGB, EXIF orientation applied, C-contiguous, writable."""
    warning: str | None = None
    """What a careful user wants to know although it worked, e.g. ``first frame of 12``."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, fenced: bool = False) -> DecodedImage:
    """Decode the first frame.

    16-bit and float samples are scaled to 8 bits. Transparent pixels are laid on white: what is stored under
    them is arbitrary, and white is what a viewer shows. Samples are taken as sRGB; a warning names another
    ICC profile.

    Args:
        data: the whole encoded file.
        max_pixels: larger images (height * width, by their header) are refused before decoding.
        fenced: decode nothing in this process, for an image that may have killed one.

    Raises:
        ImageError: `undecodable` (no known format, damaged, cut short), `too_large`, or `failed` (it killed
            its decoding process, or took too long).
    """
    format = sniff(data)
    if format == "JPEG":
        jpeg = read_jpeg(data)
        check_pixels(jpeg.height, jpeg.width, max_pixels)
        if jpeg.odd is None and not fenced:
            pixels = _decode_plain(data, jpeg)
            if pixels is not None:
                return DecodedImage(pixels, icc_warning(jpeg.icc))
    elif size := header_size(data, format):
        check_pixels(*size, max_pixels)
    found = fence().decode(data, format, max_pixels=max_pixels)
    assert found.pixels is not None
    return DecodedImage(found.pixels, found.warning)


def read_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header alone. Raises `ImageError`."""
    format = sniff(data)
    if format == "JPEG":
        jpeg = read_jpeg(data)
        check_pixels(jpeg.height, jpeg.width, max_pixels)
        if jpeg.odd is None:
            turned = jpeg.orientation in TURNED
            return (jpeg.width, jpeg.height) if turned else (jpeg.height, jpeg.width)
    found = fence().decode(data, format, max_pixels=max_pixels, only_size=True)
    return found.height, found.width


def _decode_plain(data: bytes, jpeg: Jpeg) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) uint8 RGB, upright; None where libjpeg-turbo finds fault with it or another size in it."""
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except (ValueError, MemoryError):
        return None
    if pixels.shape != (jpeg.height, jpeg.width, 3):
        return None
    return upright(pixels, jpeg.orientation)
