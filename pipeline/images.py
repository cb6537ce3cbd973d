"""Encoded bytes -> upright 8-bit RGB pixels, or the reason why not.

What an object is is read from its bytes, never from its name. The size is read from the header and compared
with the cap before a pixel is decoded. PIL decodes, because it survives damaged files that kill the process
in other decoders.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

# Our own cap is per call and counts before decoding; PIL's is one for the process and would refuse below it.
Image.MAX_IMAGE_PIXELS = None

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

# MPO opens as JPEG. No format that needs an outside program (EPS) or a library with its own parsers (AVIF).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ORIENTATION = 0x0112  # EXIF tag
_TURNED = (5, 6, 7, 8)  # orientations that swap height and width

_DAMAGED = (
    OSError,  # truncated, unidentified, broken stream
    SyntaxError,  # PIL's word for a bad header
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
)


class ImageError(Exception):
    """These bytes give no pixels; the message says why, in one line."""

    def __init__(self, status: Literal["undecodable", "too_large"], message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One image in the frame that all boxes refer to."""

    pixels: npt.NDArray[np.uint8]
    """(H, W, 3) RGB, EXIF orientation applied, C-contiguous, writable."""
    warning: str | None = None
    """What a careful user wants to know although it worked, e.g. ``first frame of 12``."""


def decode(data: bytes, *, max_pixels: int = 100_000_000) -> DecodedImage:
    """Decode the first frame.

    16-bit and float samples are scaled to 8 bits. Transparent pixels are laid on white: what is stored under
    them is arbitrary, and white is what a viewer shows.

    Args:
        data: the whole encoded file.
        max_pixels: larger images (height * width, by their header) are refused before decoding.

    Raises:
        ImageError: `undecodable` (no known format, damaged, cut short) or `too_large`.
    """
    with _image_errors(), _open(data, max_pixels) as image:
        warnings = []
        image.load()
        _check_size(image, max_pixels)  # a GIF frame may be larger than the canvas in the header
        turned, exif_warning = _apply_orientation(image)
        warnings += exif_warning
        pixels, depth_warning = _to_rgb(turned)
        warnings += depth_warning
        frames = _num_frames(image)
        if frames != 1:
            warnings.append(f"first frame of {frames or 'several'}")
    return DecodedImage(pixels, "; ".join(warnings) or None)


def read_size(data: bytes) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header alone. Raises `ImageError`."""
    with _image_errors(), _open(data, None) as image:
        width, height = image.size
        try:
            # PIL's TIFF reader has turned the size already.
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _TURNED
        except _DAMAGED:
            turned = False
    return (width, height) if turned else (height, width)


@contextmanager
def _image_errors() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError("undecodable", "no image format that is supported") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except MemoryError as error:
        raise ImageError("too_large", "not enough memory to decode it") from error
    except _DAMAGED as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ImageError("undecodable", cause) from error


def _open(data: bytes, max_pixels: int | None) -> Image.Image:
    if not data:
        raise ImageError("undecodable", "no bytes at all")
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if max_pixels is not None:
        _check_size(image, max_pixels)
    return image


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            "too_large", f"{width} x {height} is more than {max_pixels} pixels (--max-pixels)"
        )


def _apply_orientation(image: Image.Image) -> tuple[Image.Image, list[str]]:
    try:
        return ImageOps.exif_transpose(image), []
    except _DAMAGED:
        return image, ["EXIF unreadable, orientation ignored"]


def _num_frames(image: Image.Image) -> int | None:
    """Frames in the file; None where those after the first are damaged."""
    try:
        return int(getattr(image, "n_frames", 1))
    except _DAMAGED:
        return None


def _to_rgb(image: Image.Image) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """(H, W, 3) uint8, and warnings."""
    if image.mode.startswith("I") or image.mode == "F":
        gray, warnings = _to_8_bits(np.asarray(image))
        return np.repeat(gray[:, :, None], 3, axis=2), warnings
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    # np.array, not asarray: PIL's buffer is read-only, which torch refuses.
    return np.array(image.convert("RGB")), []


def _to_8_bits(samples: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """(H, W) integers or floats -> uint8: [0, 1], [0, 255] and [0, 65535] by their range, else stretched."""
    values = samples.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("undecodable", "pixels that are not finite")
    warnings = []
    if low >= 0 and samples.dtype.kind in "iu" and high <= 65535:
        values *= 255 / 65535
    elif low >= 0 and samples.dtype.kind == "f" and high <= 1:
        values *= 255
    elif low < 0 or high > 255:
        values = (values - low) * (255 / (high - low))
        warnings.append(f"pixels stretched from {low:g}..{high:g}")
    return np.rint(values).astype(np.uint8), warnings
