"""Decodes what Pillow alone does not: HEIC, JPEG XL, deep JPEG 2000 and AVIF. It runs behind the fence.

Each function gives a PIL image of 8-bit samples, so that transparency and orientation follow the same rules
as for other formats (`pipeline.images.pillow`). The libraries are imported when the first such image arrives.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image

from pipeline.images.boxes import Jp2, avif_bits, read_jp2
from pipeline.images.guard import ImageError, check_pixels
from pipeline.images.jxl_header import read_jxl
from pipeline.images.samples import NEUTRAL, Declared, Pixels, SampleRules, scaled, to_8_bits

# Pillow starts a thread for each core, and the process behind the fence must not start any.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_NO_HEIF = (
    "HEIC pictures need the package pi-heif in the environment of the nodes."
    " Install it there: pip install 'fastrcnn-ray[heif]'"
)
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class Picture(NamedTuple):
    """A decoded picture and what a careful user should know about it."""

    image: Image.Image
    notes: list[str]


def decode_heif(data: bytes, max_pixels: int, rules: SampleRules = NEUTRAL) -> Picture:
    """Decode the main picture of a HEIC or HEIF file.

    libheif crops, turns and mirrors the picture as the file says. The EXIF orientation has no meaning in this
    format (ISO 23008-12, A.2.1), so it is not applied.

    Raises:
        ImageError: `undecodable` or `too_large`; also if pi-heif is not installed.
    """
    heif, count = _open_heif(data)
    try:
        check_pixels(heif.size[1], heif.size[0], max_pixels)
        samples = np.asarray(heif)
    except (RuntimeError, SyntaxError, EOFError, ValueError) as error:
        raise _heif_error(error) from error
    check_pixels(samples.shape[0], samples.shape[1], max_pixels)
    bits = int(heif.info.get("bit_depth", 8))
    premultiplied = heif.mode.startswith(("RGBa", "La"))
    image, notes = picture_of(samples, bits, rules, premultiplied=premultiplied)
    image.info["icc_profile"] = heif.info.get("icc_profile") or b""
    if count > 1:
        notes.append(f"main picture of {count}")
    return Picture(image, notes)


def size_of_heif(data: bytes) -> tuple[int, int]:
    """Read (height, width) after the picture is cropped and turned. Raises `ImageError`."""
    width, height = _open_heif(data)[0].size
    return height, width


def _open_heif(data: bytes) -> tuple[Any, int]:
    """Open a file: its main picture, and the number of pictures."""
    try:
        import pi_heif
    except ImportError as error:
        raise ImageError("undecodable", _NO_HEIF) from error
    options = pi_heif.options
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 1
    try:
        file = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        return file[file.primary_index], len(file)
    except (RuntimeError, SyntaxError, EOFError, ValueError, IndexError) as error:
        raise _heif_error(error) from error


def _heif_error(error: Exception) -> ImageError:
    status = "too_large" if "security limit" in str(error).lower() else "undecodable"
    return ImageError(status, f"HEIC: {error}")  # type: ignore[arg-type]


def decode_jpeg_xl(data: bytes, max_pixels: int, rules: SampleRules = NEUTRAL) -> Picture:
    """Decode the first frame of a JPEG XL file; libjxl turns it. Raises `ImageError`."""
    import imagecodecs

    header = read_jxl(data)
    if header is None:
        raise ImageError("undecodable", "JPEG XL: its header is damaged or cut short")
    try:
        samples = imagecodecs.jpegxl_decode(data, index=0, numthreads=1)
    except (RuntimeError, ValueError, IndexError) as error:
        cut = "NEED_MORE_INPUT" in str(error)
        cause = "its data are cut short" if cut else str(error)
        raise ImageError("undecodable", f"JPEG XL: {cause}") from error
    if samples.shape[:2] != (header.height, header.width):
        raise ImageError("undecodable", f"JPEG XL: samples of the shape {samples.shape}")
    check_pixels(samples.shape[0], samples.shape[1], max_pixels)
    image, notes = picture_of(samples, header.bits, rules, premultiplied=header.premultiplied)
    if header.colours:
        notes.append(f"colours {header.colours} taken as sRGB")
    if header.animated:
        notes.append("first frame of several")
    return Picture(image, notes)


def decode_deep_avif(
    data: bytes, opened: Image.Image, rules: SampleRules = NEUTRAL
) -> Picture | None:
    """Decode an AVIF picture of more than 8 bits, of which Pillow keeps 8. None if it has 8.

    Args:
        data: the whole file.
        opened: the file as Pillow opens it, with the orientation and the ICC profile.
        rules: --range.

    Raises:
        ImageError: `undecodable`.
    """
    bits = avif_bits(data)
    if bits not in (10, 12):
        return None
    import imagecodecs

    try:
        samples = imagecodecs.avif_decode(data, index=0, numthreads=1)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ImageError("undecodable", f"AVIF: {error}") from error
    if samples.dtype != np.uint16 or samples.shape[:2] != (opened.height, opened.width):
        return None
    picture = picture_of(samples, bits, rules)
    picture.image.info |= {k: opened.info[k] for k in ("exif", "icc_profile") if k in opened.info}
    return picture


def decode_deep_jp2(data: bytes, rules: SampleRules = NEUTRAL) -> Picture | None:
    """Decode a JPEG 2000 picture whose samples have more than 8 bits, or whose last band is no opacity.

    None if Pillow decodes it as it should be.

    Raises:
        ImageError: `undecodable`.
    """
    header = read_jp2(data)
    if header is None:
        return None
    if header.components > 4:
        bands = f"{header.components} bands: at most 4 are supported"
        raise ImageError("undecodable", f"a JPEG 2000 picture of {bands}")
    unnamed = header.components in (2, 4) and not header.has_alpha
    if header.bits > 8:
        return _jp2_by_imagecodecs(data, header, unnamed, rules)
    if not unnamed:
        return None
    image = Image.open(io.BytesIO(data), formats=("JPEG2000",))
    image.load()
    if image.mode not in ("LA", "RGBA"):  # CMYK is named in the header
        return None
    plain = image.convert("RGBA").convert("RGB")
    return Picture(plain, [_band_note(header)])


def _jp2_by_imagecodecs(
    data: bytes, header: Jp2, unnamed: bool, rules: SampleRules
) -> Picture | None:
    import imagecodecs

    try:
        samples = imagecodecs.jpeg2k_decode(data)
    except (RuntimeError, ValueError):
        return None  # components of several sizes; Pillow enlarges the smaller ones
    if samples.dtype.kind not in "ui":
        return None
    if unnamed and samples.ndim == 3:
        samples = samples[:, :, : header.components - 1]
    image, notes = picture_of(samples, header.bits, rules)
    return Picture(image, [_band_note(header), *notes] if unnamed else notes)


def _band_note(header: Jp2) -> str:
    return f"band {header.components} ignored: the file does not say that it is opacity"


def picture_of(
    samples: npt.NDArray[np.generic],
    bits: int,
    rules: SampleRules = NEUTRAL,
    *,
    premultiplied: bool = False,
) -> Picture:
    """Make a picture of samples, scaled by the number of bits that the file declares.

    Args:
        samples: (H, W) or (H, W, C), C up to 4: gray or RGB, then opacity.
        bits: bits of a sample; 0 for floats, whose range is 0 to 1.
        rules: --range, for samples of more than 8 bits.
        premultiplied: whether the colours are multiplied with the opacity.

    Raises:
        ImageError: `undecodable`: more than four bands, or floats that are not finite.
    """
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.shape[2] not in _MODES:
        raise ImageError("undecodable", f"a picture of {samples.shape[2]} bands")
    pixels, notes = _to_8_bits(samples, bits, rules)
    mode = _MODES[pixels.shape[2]]
    size = (pixels.shape[1], pixels.shape[0])
    if premultiplied and mode in ("LA", "RGBA"):
        mode = mode.replace("A", "a")
    image = Image.frombuffer(mode, size, np.ascontiguousarray(pixels).tobytes(), "raw", mode, 0, 1)
    return Picture(image, notes)


def _to_8_bits(
    samples: npt.NDArray[np.generic], bits: int, rules: SampleRules
) -> tuple[Pixels, list[str]]:
    """Scale samples (H, W, C) to uint8. The opacity is scaled by the number of bits alone."""
    if bits == 8 and samples.dtype == np.uint8:
        return samples, []  # type: ignore[return-value]
    low, high = 0.0, float(2**bits - 1) if bits else 1.0
    if samples.dtype.kind == "i":
        low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    num_colours = 1 if samples.shape[2] < 3 else 3
    declared = Declared(low, high, f"{bits} bits") if bits else None
    colours, note = to_8_bits(samples[:, :, :num_colours], rules, of_type=declared)
    if samples.shape[2] == num_colours:
        return colours, [note] if note else []
    opacity = scaled(samples[:, :, num_colours:], low, high)
    return np.concatenate([colours, opacity], axis=2), [note] if note else []
