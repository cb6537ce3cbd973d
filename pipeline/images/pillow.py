"""Decodes every supported format with Pillow. It runs behind the fence (`pipeline.images.fence`).

It imports only Pillow and NumPy, so that its process starts in a third of a second.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pipeline.errors import one_line
from pipeline.images.guard import Format, ImageError, check_pixels, header_size
from pipeline.images.metadata import ORIENTATION, TURNED, icc_warning

# Each call checks its `max_pixels` before decoding. PIL's limit holds for the whole process and may be lower.
Image.MAX_IMAGE_PIXELS = None

_COUNTED_BYTES = 1_000_000
"""Largest file whose frames are counted. Counting reads the file, and a GIF may have a million frames."""
_ROWS = 256
"""Rows that are scaled at once. In float64 the whole image would take eight times its size."""

_DAMAGED = (
    OSError,  # truncated, unidentified, broken stream
    SyntaxError,  # PIL raises it for a bad header
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    ZeroDivisionError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
)

Pixels = npt.NDArray[np.uint8]


def decode_by_pillow(data: bytes, format: Format, max_pixels: int) -> tuple[Pixels, str | None]:
    """Decode the first frame: (H, W, 3) uint8 RGB, upright, and a warning or None.

    Raises:
        ImageError: `undecodable` or `too_large`.
    """
    with _image_errors(), _open(data, format, max_pixels) as image:
        pixels, notes = _decode(image, max_pixels)
        notes.append(_frames_warning(image, len(data)))
    return pixels, "; ".join(note for note in notes if note) or None


def pixels_of_image(image: Image.Image, max_pixels: int) -> Pixels:
    """Turn a PIL image into (H, W, 3) uint8 RGB, upright, by the rules for encoded files.

    Raises:
        ImageError: `undecodable` or `too_large`.
    """
    with _image_errors():
        check_pixels(image.height, image.width, max_pixels)  # PIL decodes an opened file later
        return _decode(image, max_pixels)[0]


def size_by_pillow(data: bytes, format: Format, max_pixels: int) -> tuple[int, int]:
    """Read (height, width) after orientation, without decoding pixels. Raises `ImageError`."""
    with _image_errors(), _open(data, format, max_pixels) as image:
        width, height = image.size
        orientation, _ = _orientation(image)
        # PIL's TIFF reader has already swapped height and width.
        turned = format != "TIFF" and orientation in TURNED
    return (width, height) if turned else (height, width)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels the way a viewer shows them (EXIF 2.3, tag 0x0112); the result is C-contiguous.

    Args:
        pixels: (H, W, 3) uint8, as stored.
        orientation: 1 to 8.
    """
    if orientation in TURNED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


@contextmanager
def _image_errors() -> Iterator[None]:
    """Turn PIL's exceptions into `ImageError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of damage that it can repair
            yield
    except UnidentifiedImageError as error:
        raise ImageError("undecodable", "its header is damaged or cut short") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except MemoryError as error:
        raise ImageError("too_large", "not enough memory to decode it") from error
    except _DAMAGED as error:
        cause = one_line(error)
        # PIL's message for metadata that would unpack to more than 64 MB contains these words.
        status = "too_large" if "too large" in cause.lower() else "undecodable"
        raise ImageError(status, cause) from error  # type: ignore[arg-type]


def _open(data: bytes, format: Format, max_pixels: int) -> Image.Image:
    if size := header_size(data, format):
        check_pixels(*size, max_pixels)
    image = Image.open(io.BytesIO(data), formats=(format,))  # MPO opens as JPEG
    check_pixels(image.height, image.width, max_pixels)
    return image


def _decode(image: Image.Image, max_pixels: int) -> tuple[Pixels, list[str | None]]:
    """Return the pixels (H, W, 3) of an opened image, upright, and its warnings."""
    image.load()
    # A GIF frame may be larger than the canvas in the header.
    check_pixels(image.height, image.width, max_pixels)
    orientation, exif_warning = _orientation(image)
    pixels, depth_warning = _to_rgb(image)
    icc = icc_warning(image.info.get("icc_profile") or b"")
    return upright(pixels, orientation), [exif_warning, depth_warning, icc]


def _orientation(image: Image.Image) -> tuple[int, str | None]:
    """Read the EXIF orientation, which is to be applied to the decoded pixels; and a warning or None."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except _DAMAGED:
        return 1, "EXIF unreadable, orientation ignored"
    return (value if value in range(1, 9) else 1), None


def _frames_warning(image: Image.Image, num_bytes: int) -> str | None:
    """Warn if the file has several frames."""
    try:
        if not getattr(image, "is_animated", False):
            return None
        if num_bytes > _COUNTED_BYTES and image.format in ("GIF", "TIFF"):
            return "first frame of several"
        return f"first frame of {getattr(image, 'n_frames', 'several')}"
    except _DAMAGED:  # a later frame is damaged
        return "first frame of several"


def _to_rgb(image: Image.Image) -> tuple[Pixels, str | None]:
    """Convert a loaded image of any mode to (H, W, 3) uint8 RGB; and a warning or None."""
    if image.mode.startswith("I") or image.mode == "F":
        gray, warning = _to_8_bits(np.asarray(image))
        return np.repeat(gray[:, :, None], 3, axis=2), warning
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return np.asarray(image.convert("RGB")), None


def _to_8_bits(samples: npt.NDArray[np.generic]) -> tuple[Pixels, str | None]:
    """Scale (H, W) integers or floats to uint8; and a warning or None.

    The scale depends on the range of the values. Integers in [0, 65535] and floats in [0, 1] or [0, 255] have
    a fixed scale. Any other range is stretched to [0, 255], with a warning.
    """
    low, high = float(samples.min()), float(samples.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("undecodable", "pixels that are not finite")
    base, scale, warning = 0.0, 1.0, None
    if low >= 0 and samples.dtype.kind in "iu" and high <= 65535:
        scale = 255 / 65535
    elif low >= 0 and samples.dtype.kind == "f" and high <= 1:
        scale = 255
    elif low < 0 or high > 255:
        # An image with a single value has no range to stretch: it becomes black.
        base, scale = low, 255 / (high - low) if high > low else 0.0
        warning = f"pixels stretched from {low:g}..{high:g}"
    scaled = np.empty(samples.shape, np.uint8)
    for row in range(0, len(samples), _ROWS):
        part = samples[row : row + _ROWS].astype(np.float64)
        scaled[row : row + _ROWS] = np.rint((part - base) * scale)
    return scaled, warning
