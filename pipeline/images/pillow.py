"""Decodes every supported format, most with Pillow. It runs behind the fence (`pipeline.images.fence`).

It imports only Pillow, NumPy and simplejpeg, so that its process starts in a third of a second.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import one_line
from pipeline.images.codecs import (
    decode_deep_avif,
    decode_deep_jp2,
    decode_heif,
    decode_jpeg_xl,
    size_of_heif,
)
from pipeline.images.fenced_jpeg import decode_jpeg
from pipeline.images.guard import Format, ImageError, check_pixels, header_size
from pipeline.images.jpeg import EXIF_TWICE, EXIF_UNREADABLE, Jpeg, pictures_warning, read_jpeg
from pipeline.images.metadata import ORIENTATION, TURNED, icc_warning
from pipeline.images.samples import (
    NEUTRAL,
    Declared,
    Pixels,
    SampleRules,
    pick_bands,
    to_8_bits,
)

# Each call checks its `max_pixels` before decoding. PIL's limit holds for the whole process and may be lower.
Image.MAX_IMAGE_PIXELS = None

_COUNTED_BYTES = 1_000_000
"""Largest file whose frames are counted. Counting reads the file, and a GIF may have a million frames."""

_AVIF_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
_NAMES: dict[Format, str] = {"JP2": "JPEG 2000", "AVIF": "AVIF"}
"""Names of formats that people may not expect in a file of another suffix."""

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
    RuntimeError,  # AVIF
    struct.error,
    zlib.error,
)

_PIL_INTEGERS = Declared(0, 65535, "PIL mode I")
"""PIL keeps 16-bit samples in 32 bits."""


class Decoded(NamedTuple):
    """A decoded image."""

    pixels: Pixels
    """(H, W, 3) uint8 RGB, upright."""
    warning: str | None
    lacks_end: bool = False
    """Whether the file is a JPEG that ends before its picture does."""


def decode_image(
    data: bytes, format: Format, max_pixels: int, rules: SampleRules = NEUTRAL
) -> Decoded:
    """Decode the first frame of an image of any format.

    Raises:
        ImageError: `undecodable` or `too_large`.
    """
    with image_errors():
        if size := header_size(data, format):
            check_pixels(*size, max_pixels)
        if format == "JPEG":
            return _decode_jpeg(data, max_pixels, rules)
        picture = None
        if format == "HEIF":
            picture = decode_heif(data, max_pixels, rules)
        elif format == "JXL":
            picture = decode_jpeg_xl(data, max_pixels, rules)
        elif format == "JP2":
            picture = decode_deep_jp2(data, rules)
        if picture is not None:
            pixels, notes = _decode(picture.image, max_pixels, rules)
            notes += picture.notes
            return Decoded(pick_bands(pixels, rules.bands, 3), _joined(notes))
        with open_image(data, format, max_pixels) as image:
            if format == "PNG":
                _scale_transparency(image, data)
            if format == "AVIF":
                picture = decode_deep_avif(data, image, rules)
            pixels, notes = _decode(picture.image if picture else image, max_pixels, rules)
            notes += picture.notes if picture else []
            notes.append(frames_warning(image, len(data)))
    return Decoded(pick_bands(pixels, rules.bands, 3), _joined(notes))


def _decode_jpeg(data: bytes, max_pixels: int, rules: SampleRules) -> Decoded:
    jpeg = read_jpeg(data, max_pixels)
    decoded = decode_jpeg(data, max_pixels, rules)
    if isinstance(decoded, str):
        try:
            with open_image(data, "JPEG", max_pixels) as image:
                picture, notes = image.copy(), [f"damaged: {decoded}"]
        except (ImageError, *_DAMAGED) as error:
            cause = ": ".join(filter(None, (jpeg.odd, decoded)))
            raise ImageError("undecodable", cause) from error
        lacks_end = False
    else:
        picture, notes, lacks_end = *decoded.picture, decoded.lacks_end
    orientation, exif_warning = _orientation_of_jpeg(data, jpeg, max_pixels)
    pixels = upright(_to_rgb(picture, rules)[0], orientation)
    return Decoded(
        pick_bands(pixels, rules.bands, 3),
        _joined([exif_warning, *notes, icc_warning(jpeg.icc), pictures_warning(jpeg)]),
        lacks_end,
    )


def _orientation_of_jpeg(data: bytes, jpeg: Jpeg, max_pixels: int) -> tuple[int, str | None]:
    """Return the orientation of a JPEG, and a warning or None. Pillow decides where its EXIF is unusual."""
    if jpeg.odd not in (EXIF_TWICE, EXIF_UNREADABLE):
        return jpeg.orientation, None
    with open_image(data, "JPEG", max_pixels) as image:
        return orientation_of(image)


def _joined(notes: Iterable[str | None]) -> str | None:
    return "; ".join(note for note in notes if note) or None


def decode_with_notes(
    data: bytes, format: Format, max_pixels: int
) -> tuple[Pixels, list[str | None]]:
    """Decode the first frame as `decode_image` does, and give its warnings but not the frames."""
    with image_errors(), open_image(data, format, max_pixels) as image:
        return _decode(image, max_pixels)


def pixels_of_image(
    image: Image.Image, max_pixels: int, rules: SampleRules = NEUTRAL
) -> tuple[Pixels, str | None]:
    """Turn a PIL image into (H, W, 3) uint8 RGB, upright, by the rules for encoded files; and a warning.

    Raises:
        ImageError: `undecodable` or `too_large`.
    """
    with image_errors():
        check_pixels(image.height, image.width, max_pixels)  # PIL decodes an opened file later
        pixels, notes = _decode(image, max_pixels, rules)
    return pick_bands(pixels, rules.bands, 3), "; ".join(note for note in notes if note) or None


def size_by_pillow(data: bytes, format: Format, max_pixels: int) -> tuple[int, int]:
    """Read (height, width) after orientation, without decoding pixels. Raises `ImageError`."""
    with image_errors():
        if size := header_size(data, format):
            check_pixels(*size, max_pixels)
        if format == "HEIF":
            return size_of_heif(data)
        if format == "JPEG":
            jpeg = read_jpeg(data, max_pixels)
            check_pixels(jpeg.height, jpeg.width, max_pixels)
            # Pillow does not open JPEGs of 12 bits and lossless ones.
            turned = _orientation_of_jpeg(data, jpeg, max_pixels)[0] in TURNED
            return (jpeg.width, jpeg.height) if turned else (jpeg.height, jpeg.width)
        if format == "JXL":  # its header states the size after it is turned
            if size is None:
                raise ImageError("undecodable", "JPEG XL: its header is damaged or cut short")
            return size
    with image_errors(), open_image(data, format, max_pixels) as image:
        width, height = image.size
        orientation, _ = orientation_of(image)
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
def image_errors() -> Iterator[None]:
    """Turn PIL's exceptions into `ImageError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of damage that it can repair
            yield
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except MemoryError as error:
        raise ImageError("too_large", "not enough memory to decode it") from error
    except _DAMAGED as error:
        cause = one_line(error)
        # PIL's message for metadata that would unpack to more than 64 MB contains these words.
        status = "too_large" if "too large" in cause.lower() else "undecodable"
        raise ImageError(status, cause) from error  # type: ignore[arg-type]


def open_image(data: bytes, format: Format, max_pixels: int) -> Image.Image:
    if format == "AVIF" and data[8:12] not in _AVIF_BRANDS:  # Pillow looks at no other brand
        data = data[:8] + b"avif" + data[12:]
    name = _NAMES.get(format)
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG2000" if format == "JP2" else format,))
    except UnidentifiedImageError as error:
        kind = f"{name}: " if name else ""
        raise ImageError("undecodable", f"{kind}its header is damaged or cut short") from error
    check_pixels(image.height, image.width, max_pixels)
    return image


def _decode(
    image: Image.Image, max_pixels: int, rules: SampleRules = NEUTRAL
) -> tuple[Pixels, list[str | None]]:
    """Return the pixels (H, W, 3) of an opened image, upright, and its warnings."""
    image.load()
    # A GIF frame may be larger than the canvas in the header.
    check_pixels(image.height, image.width, max_pixels)
    orientation, exif_warning = orientation_of(image)
    pixels, depth_warning = _to_rgb(image, rules)
    icc = icc_warning(image.info.get("icc_profile") or b"")
    return upright(pixels, orientation), [exif_warning, depth_warning, icc]


def _scale_transparency(image: Image.Image, data: bytes) -> None:
    """Scale the transparent gray of a PNG of 2 or 4 bits as PIL scales its samples, which it forgets."""
    gray, bits = image.info.get("transparency"), data[24]
    if image.mode == "L" and bits in (2, 4) and isinstance(gray, int):
        image.info["transparency"] = gray * 255 // (2**bits - 1)


def orientation_of(image: Image.Image) -> tuple[int, str | None]:
    """Read the EXIF orientation, which is to be applied to the decoded pixels; and a warning or None."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except _DAMAGED:
        return 1, "EXIF unreadable, orientation ignored"
    if isinstance(value, bytes) and len(value) == 1:  # a BYTE; the standard says SHORT
        value = value[0]
    return (value if value in range(1, 9) else 1), None


def frames_warning(image: Image.Image, num_bytes: int) -> str | None:
    """Warn if the file has several frames."""
    try:
        if not getattr(image, "is_animated", False):
            return None
        if num_bytes > _COUNTED_BYTES and image.format in ("GIF", "TIFF"):
            return "first frame of several"
        return f"first frame of {getattr(image, 'n_frames', 'several')}"
    except _DAMAGED:  # a later frame is damaged
        return "first frame of several"


def _to_rgb(image: Image.Image, rules: SampleRules) -> tuple[Pixels, str | None]:
    """Convert a loaded image of any mode to (H, W, 3) uint8 RGB; and a warning or None."""
    if image.mode.startswith("I") or image.mode == "F":
        of_type = _PIL_INTEGERS if image.mode == "I" else None
        gray, warning = to_8_bits(np.asarray(image), rules, of_type=of_type)
        return np.repeat(gray[:, :, None], 3, axis=2), warning
    if image.format == "BMP" and image.mode == "RGBA" and not image.getchannel("A").getbbox():
        # The writer left the bytes of opacity empty. Browsers show such a picture opaque.
        return np.asarray(image.convert("RGB")), None
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return np.asarray(image.convert("RGB")), None
