"""Decodes an image: encoded bytes -> upright 8-bit RGB pixels, or `ImageError` with the reason.

    bytes -> guard, jpeg: format by content, limits by header -> plain JPEG:      decoded in this process
                                                              -> everything else: decoded behind the fence

In most buckets nearly all images are plain JPEGs: 8 bits, gray or YCbCr, few scans, whole markers.
libjpeg-turbo decodes them through simplejpeg, the wrapper that adds the least time (`jobs/benchmark.py
decode`). All other images go through Pillow in another process with limits, "behind the fence"
(`pipeline.images.fence`): other formats, unusual JPEGs, and an image that has killed a worker. So does a
plain JPEG if libjpeg-turbo gives a warning for it: then Pillow decides whether the image is good, and names
the reason if not. The way depends on the bytes alone, so an image gives the same pixels on every machine.
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
"""Increase this number when some image gives other pixels than before. Every shard stores it."""

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
"""Suffixes of image files, in lower case; compare names without regard to case. Only for listing: the format
is recognised by the content."""

MAX_BYTES = 100_000_000
"""Default limit for the bytes of an encoded image."""
MAX_PIXELS = 100_000_000
"""Default limit for the pixels (height * width) of an image."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """The pixels of one image, in the frame that all boxes refer to."""

    pixels: npt.NDArray[np.uint8]
    """(H, W, 3) uint8 RGB, EXIF orientation applied, C-contiguous, writable."""
    warning: str | None = None
    """What a careful user should know although the image was decoded, e.g. ``first frame of 12``."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, fenced: bool = False) -> DecodedImage:
    """Decode the first frame of an image.

    16-bit and float samples are scaled to 8 bits. Transparent pixels are laid on white: the colour stored
    under them is arbitrary, and viewers show white. Samples are taken as sRGB; if the file has another ICC
    profile, a warning names it.

    Args:
        data: the whole encoded file.
        max_pixels: images with more pixels (height * width, by the header) are refused before decoding.
        fenced: always decode behind the fence; for an image that may have killed a process.

    Raises:
        ImageError: `undecodable` (no known format, damaged, cut short), `too_large`, or `failed` (the image
            killed its decoding process, or took too long).
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
    fenced_image = fence().decode(data, format, max_pixels=max_pixels)
    assert fenced_image.pixels is not None
    return DecodedImage(fenced_image.pixels, fenced_image.warning)


def read_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read (height, width) after EXIF orientation, from the header alone. Raises `ImageError`."""
    format = sniff(data)
    if format == "JPEG":
        jpeg = read_jpeg(data)
        check_pixels(jpeg.height, jpeg.width, max_pixels)
        if jpeg.odd is None:
            turned = jpeg.orientation in TURNED
            return (jpeg.width, jpeg.height) if turned else (jpeg.height, jpeg.width)
    fenced_image = fence().decode(data, format, max_pixels=max_pixels, only_size=True)
    return fenced_image.height, fenced_image.width


def _decode_plain(data: bytes, jpeg: Jpeg) -> npt.NDArray[np.uint8] | None:
    """Decode a plain JPEG with libjpeg-turbo: (H, W, 3) uint8 RGB, upright.

    None if libjpeg-turbo warns or fails, or if the size is not that of the header.
    """
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except (ValueError, MemoryError):
        return None
    if pixels.shape != (jpeg.height, jpeg.width, 3):
        return None
    return upright(pixels, jpeg.orientation)
