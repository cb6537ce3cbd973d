"""Recognises the format and the size of an image without decoding it.

    sniff(data)         the format, by content
    header_size(...)    height and width, where a few bytes state them

This is Python code that reads a few hundred bytes, so the limits are checked before a decoder library gets
the data. JPEGs have a separate module, `pipeline.images.jpeg`.
"""

from __future__ import annotations

import re
import struct
from typing import Literal

from pipeline.images.boxes import (
    AVIF_BRANDS,
    CODED_BRANDS,
    HEIF_BRANDS,
    J2K_SIGNATURE,
    JP2_SIGNATURE,
    brands,
    heif_size,
    read_jp2,
)
from pipeline.images.jxl_header import JXL_CODESTREAM, JXL_CONTAINER, read_jxl

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF", "JP2", "JXL"]
Status = Literal["undecodable", "too_large", "failed"]

_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"8BPS", "a Photoshop document"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"qoif", "QOI"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
)
_PPM_NUMBER = re.compile(rb"(?:\s|#[^\n]*\n)+(\d{1,9})(?=\s)")
_BRANDS = {b"crx ": "a camera's raw picture (CR3)", b"qt  ": "a film", b"jpm ": "JPEG 2000 (JPM)"}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


class ImageError(Exception):
    """The bytes cannot become pixels. The message gives the reason in one line.

    `status` is the status of the image's row: `undecodable`, `too_large` or `failed`.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


def sniff(data: bytes) -> Format:
    """Recognise the format of encoded bytes by the first bytes, never by a file name.

    Raises:
        ImageError: the bytes are in no supported format.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if not data:
        raise ImageError("undecodable", "the file is empty (no bytes)")
    head = data[:64]
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6][\s#]", head):
        return "PPM"
    if head.startswith((JP2_SIGNATURE, J2K_SIGNATURE)):
        return "JP2"
    if head.startswith((JXL_CODESTREAM, JXL_CONTAINER)):
        return "JXL"
    if head[4:8] == b"ftyp" and (format := _format_of_brands(brands(data))):
        return format
    raise ImageError("undecodable", f"{_name(head)}not a supported image format")


def _format_of_brands(names: tuple[bytes, ...]) -> Format | None:
    """Choose the format by the brands of a file, the major one first."""
    if names[0] in AVIF_BRANDS or (names[0] not in CODED_BRANDS and AVIF_BRANDS & set(names)):
        return "AVIF"
    return "HEIF" if HEIF_BRANDS & set(names) else None


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raise ImageError (`too_large`) if the image has more than `max_pixels` pixels."""
    if width * height > max_pixels:
        raise ImageError(
            "too_large", f"{width} x {height} is more than {max_pixels} pixels (--max-pixels)"
        )


def header_size(data: bytes, format: Format) -> tuple[int, int] | None:
    """Read (height, width) as stored, before orientation, if the first bytes state it.

    None means that only a parser can tell. This check must run before a decoder opens the file, because
    WebP's decoder allocates the whole canvas when it opens one.
    """
    try:
        if format == "PNG" and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
        elif format == "GIF":
            width, height = struct.unpack_from("<HH", data, 6)
        elif format == "BMP" and data[14] != 12:
            width, height = struct.unpack_from("<ii", data, 18)
        elif format == "WEBP":
            return _webp_size(data)
        elif format in ("AVIF", "HEIF"):
            return heif_size(data)
        elif format == "JP2":
            jp2 = read_jp2(data)
            return jp2 and (jp2.height, jp2.width)
        elif format == "JXL":
            jxl = read_jxl(data)
            return jxl and (jxl.height, jxl.width)
        else:
            return None
    except (struct.error, IndexError):
        return None
    return abs(height), abs(width)


def is_deep(data: bytes, format: Format) -> bool:
    """Return whether it is a PNG, PPM or PGM of more than 8 bits, which Pillow cuts or scales."""
    if format == "PNG":
        return data[12:16] == b"IHDR" and data[24:25] == b"\x10"
    if format == "PPM" and data[:2] in (b"P2", b"P3", b"P5", b"P6"):
        header = ppm_header(data)
        return header is not None and header[2] > 255
    return False


def ppm_header(data: bytes) -> tuple[int, int, int, int] | None:
    """Read the header of a PPM or PGM: (width, height, highest sample, start of samples); None if damaged."""
    numbers, at = list[int](), 2
    while len(numbers) < 3:
        match = _PPM_NUMBER.match(data, at, at + 4096)
        if match is None:
            return None
        numbers.append(int(match[1]))
        at = match.end()
    return numbers[0], numbers[1], numbers[2], at + 1


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        return int.from_bytes(data[27:30], "little") + 1, width
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _name(head: bytes) -> str:
    """Name what the bytes are instead of an image, with a colon at the end; empty if unknown."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page: "
    if text.startswith(b"<svg"):
        return "SVG: "
    if text.startswith((b"<?xml", b"<error")):
        return "XML, such as a store's error: "
    if head[4:8] == b"ftyp":
        return f"{_BRANDS.get(head[8:12], 'a film')}: "
    return next((f"{name}: " for magic, name in _KINDS if head.startswith(magic)), "")
