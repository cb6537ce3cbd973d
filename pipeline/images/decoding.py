"""Decodes an image: encoded bytes -> upright 8-bit RGB pixels, or `ImageError` with the reason.

    bytes -> guard, jpeg: format by content, limits by header -> plain JPEG:      decoded in this process
                                                              -> everything else: decoded behind the fence

In most buckets nearly all images are plain JPEGs: 8 bits, gray or YCbCr, few scans, whole markers.
libjpeg-turbo decodes them through simplejpeg, the wrapper that adds the least time (`jobs/benchmark.py
decode`). All other images are decoded in another process with limits, "behind the fence"
(`pipeline.images.fence`): other formats, unusual JPEGs, and an image that has killed a worker. So is a plain
JPEG if libjpeg-turbo gives a warning for it: then that process decides whether the image is good, and names
the reason if not. The way depends on the bytes alone, so an image gives the same pixels on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.images.fence import fence
from pipeline.images.guard import ImageError, check_pixels, header_size, sniff
from pipeline.images.jpeg import LACKS_END, Jpeg, pictures_warning, read_jpeg
from pipeline.images.metadata import TURNED, icc_warning
from pipeline.images.pillow import image_errors, open_image, orientation_of, upright
from pipeline.images.samples import NEUTRAL, SampleRules, pick_bands

__all__ = [
    "DECODER_VERSION",
    "IMAGE_SUFFIXES",
    "LACKS_END",
    "MAX_BYTES",
    "MAX_PIXELS",
    "ORIGINAL_SUFFIXES",
    "DecodedImage",
    "ImageError",
    "SampleRules",
    "Truncated",
    "check_header",
    "decode",
    "read_orientation",
    "read_size",
]

DECODER_VERSION = 2
"""Increase this number when some image gives other pixels than before. Every shard stores it."""

ORIGINAL_SUFFIXES = (
    ".avif",
    ".heic",
    ".heif",
    ".hif",
    ".jp2",
    ".j2k",
    ".j2c",
    ".jpc",
    ".jpf",
    ".jpx",
    ".jxl",
)
"""Suffixes of formats that many tools cannot show, so that a copy in another format often lies beside."""
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
    *ORIGINAL_SUFFIXES,
)
"""Suffixes of image files, in lower case; compare names without regard to case. Only for listing: the format
is recognised by the content."""

Truncated = Literal["warn", "refuse"]
"""What to do with a JPEG that lacks its end but has at least 95% of its rows: decode it with a warning, or
refuse it. With fewer rows it is always `undecodable`."""

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


def decode(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    fenced: bool = False,
    rules: SampleRules = NEUTRAL,
    truncated: Truncated = "warn",
) -> DecodedImage:
    """Decode the first frame of an image.

    Samples of more than 8 bits are scaled to 8 bits (`pipeline.images.samples`). Transparent pixels are laid
    on white: the colour stored under them is arbitrary, and viewers show white. Samples are taken as sRGB; if
    the file has another ICC profile, a warning names it.

    Args:
        data: the whole encoded file.
        max_pixels: images with more pixels (height * width, by the header) are refused before decoding.
        fenced: always decode behind the fence; for an image that may have killed a process.
        rules: the flags --range and --bands.
        truncated: what to do with a JPEG that lacks its end, see `Truncated`.

    Raises:
        ImageError: `undecodable` (no known format, damaged, cut short), `too_large`, or `failed` (the image
            killed its decoding process, or took too long).
    """
    format = sniff(data)
    if format == "JPEG":
        jpeg = read_jpeg(data, max_pixels)
        check_pixels(jpeg.height, jpeg.width, max_pixels)
        if jpeg.odd is None and not fenced:
            pixels = _decode_plain(data, jpeg)
            if pixels is not None:
                pixels = pick_bands(pixels, rules.bands, 3)
                notes = (icc_warning(jpeg.icc), pictures_warning(jpeg))
                return DecodedImage(pixels, "; ".join(filter(None, notes)) or None)
    elif size := header_size(data, format):
        check_pixels(*size, max_pixels)
    fenced_image = fence().decode(data, format, max_pixels=max_pixels, rules=rules)
    assert fenced_image.pixels is not None
    if fenced_image.lacks_end and truncated == "refuse":
        raise ImageError("undecodable", f"{fenced_image.warning} (--truncated refuse)")
    return DecodedImage(fenced_image.pixels, fenced_image.warning)


def check_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """Check format and size of an image by its first bytes, in this process, without decoding.

    It refuses what `decode` refuses before it decodes: about 20 microseconds an image.

    Returns:
        (height, width) as far as the first bytes state it: after EXIF orientation for a plain JPEG, as stored
        for other formats. None: only a parser can tell.

    Raises:
        ImageError: `undecodable` (no known format) or `too_large`.
    """
    format = sniff(data)
    if format == "JPEG":
        jpeg = read_jpeg(data, max_pixels)
        check_pixels(jpeg.height, jpeg.width, max_pixels)
        turned = jpeg.orientation in TURNED
        return (jpeg.width, jpeg.height) if turned else (jpeg.height, jpeg.width)
    size = header_size(data, format)
    if size:
        check_pixels(*size, max_pixels)
    return size


def read_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read (height, width) after EXIF orientation, from the header alone. Raises `ImageError`."""
    format = sniff(data)
    if format == "JPEG":
        jpeg = read_jpeg(data, max_pixels)
        check_pixels(jpeg.height, jpeg.width, max_pixels)
        if jpeg.odd is None:
            turned = jpeg.orientation in TURNED
            return (jpeg.width, jpeg.height) if turned else (jpeg.height, jpeg.width)
    fenced_image = fence().decode(data, format, max_pixels=max_pixels, only_size=True)
    return fenced_image.height, fenced_image.width


def read_orientation(data: bytes, *, max_pixels: int = MAX_PIXELS) -> int:
    """Read the EXIF orientation, 1 to 8, from the header alone. Raises `ImageError`."""
    format = sniff(data)
    if format == "JPEG":
        return read_jpeg(data, max_pixels).orientation
    with image_errors():
        return orientation_of(open_image(data, format, max_pixels))[0]


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
