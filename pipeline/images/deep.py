"""Decodes PNG, PPM and PGM files with samples of more than 8 bits. It runs behind the fence.

Pillow keeps the upper 8 bits of such colours, so an image of 12 bits in 16 would be nearly black.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import imagecodecs
import numpy as np

from pipeline.errors import one_line
from pipeline.images.guard import Format, ImageError, check_pixels, ppm_header
from pipeline.images.metadata import icc_warning
from pipeline.images.pillow import (
    frames_warning,
    image_errors,
    open_image,
    orientation_of,
    upright,
)
from pipeline.images.samples import (
    Declared,
    Pixels,
    SampleRules,
    Samples,
    declared_bits,
    pick_bands,
    scaled,
    to_8_bits,
)

_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TOO_FEW = "the file is cut short: it has too few samples"
_LONGEST_NUMBER = 9
"""Digits of a sample in a plain PPM at most, leading zeros included."""
_ORIENTED_TEXTS = (b"Raw profile type", b"XML:com.adobe.xm")
"""Beginnings of the texts that may hold an orientation."""


def decode_deep(
    data: bytes, format: Format, max_pixels: int, rules: SampleRules
) -> tuple[Pixels, str | None]:
    """Decode a file for which `pipeline.images.guard.is_deep` holds.

    Returns:
        (H, W, 3) uint8 RGB, upright, and a warning or None.

    Raises:
        ImageError: `undecodable` or `too_large`.
    """
    with image_errors():
        decode = _png if format == "PNG" else _ppm
        pixels, notes = decode(data, max_pixels, rules)
    return pick_bands(pixels, rules.bands, 3), "; ".join(note for note in notes if note) or None


def _png(data: bytes, max_pixels: int, rules: SampleRules) -> tuple[Pixels, list[str | None]]:
    with open_image(data, "PNG", max_pixels) as image:
        try:
            samples = imagecodecs.png_decode(data)
        except RuntimeError as error:
            raise ImageError("undecodable", one_line(error)) from error
        chunks = list(_chunks(data))
        orientation, exif_note = 1, None
        if any(_may_turn(name, body) for name, body in chunks):  # PIL decodes the pixels for it
            orientation, exif_note = orientation_of(image)
        notes = [exif_note, icc_warning(image.info.get("icc_profile") or b"")]
        notes.append(frames_warning(image, len(data)))
    samples = samples.reshape(*samples.shape[:2], -1)
    colours = samples[:, :, : 1 if samples.shape[2] < 3 else 3]
    bits = max(dict(chunks).get(b"sBIT", b"")[: colours.shape[2]], default=0)
    pixels, note = to_8_bits(colours, rules, declared_bits(colours, bits, "sBIT"))
    if samples.shape[2] in (2, 4):
        pixels = _on_white(pixels, samples[:, :, -1:], dict(chunks).get(b"sBIT", b""))
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return upright(pixels, orientation), [exif_note, note, *notes[1:]]


def _on_white(pixels: Pixels, alpha: Samples, sbit: bytes) -> Pixels:
    """Lay pixels (H, W, C) on white by their alpha (H, W, 1), whose bits `sBIT` declares last."""
    bits = sbit[-1] if len(sbit) > pixels.shape[2] else 0
    declared = declared_bits(alpha, bits, "sBIT")
    if declared is None:
        weight = (alpha >> 8).astype(np.uint16)
    else:
        weight = scaled(alpha, declared.low, declared.high).astype(np.uint16)
    mixed = (pixels * weight + 255 * (255 - weight) + 127) // 255
    return mixed.astype(np.uint8)


def _may_turn(name: bytes, body: bytes) -> bool:
    return name == b"eXIf" or (name in _TEXTS and body.startswith(_ORIENTED_TEXTS))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG up to its end: name and the first 16 bytes."""
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + min(length, 16)]
        at += length + 12


def _ppm(data: bytes, max_pixels: int, rules: SampleRules) -> tuple[Pixels, list[str | None]]:
    header = ppm_header(data)
    assert header is not None
    width, height, highest, start = header
    check_pixels(height, width, max_pixels)
    bands = 3 if data[:2] in (b"P3", b"P6") else 1
    if not (height and width and highest <= 65535):
        raise ImageError("undecodable", f"a PPM of {width} x {height} pixels up to {highest}")
    count = width * height * bands
    if data[:2] in (b"P2", b"P3"):
        numbers = _numbers(data[start:], count)
    elif len(data) - start >= 2 * count:
        numbers = np.frombuffer(data, ">u2", count, start).astype(np.uint16)
    else:
        raise ImageError("undecodable", _TOO_FEW)
    samples = numbers.reshape(height, width, bands)
    declared = Declared(0, highest, "the highest sample") if highest < 65535 else None
    pixels, note = to_8_bits(samples, rules, declared)
    return np.repeat(pixels, 3, axis=2) if bands == 1 else pixels, [note]


def _numbers(text: bytes, count: int) -> Samples:
    """Read the samples of a plain PPM or PGM, which are decimal numbers."""
    words = re.sub(rb"#[^\n\r]*", b"", text).split(maxsplit=count)[:count]
    if len(words) < count:
        raise ImageError("undecodable", _TOO_FEW)
    if not all(word.isdigit() and len(word) <= _LONGEST_NUMBER for word in words):
        raise ImageError("undecodable", "one of its samples is no number")
    numbers = np.array(words).astype(np.int64)
    if numbers.max() > 65535:
        raise ImageError("undecodable", f"a PPM with the sample {numbers.max()}, above 65535")
    return numbers.astype(np.uint16)
