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

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
Status = Literal["undecodable", "too_large", "failed"]

_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"8BPS", "a Photoshop document"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"qoif", "QOI"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}
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
    raise ImageError("undecodable", f"{_name(head)}not a supported image format")


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
        else:
            return None
    except (struct.error, IndexError):
        return None
    return abs(height), abs(width)


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
        return f"{_BRANDS.get(head[8:12], 'a film or HEIF')}: "
    return next((f"{name}: " for magic, name in _KINDS if head.startswith(magic)), "")
