"""What encoded bytes are and what decoding them would cost, found out without decoding them.

    sniff(data)         the format, by content
    header_size(...)    height and width, where a few bytes tell
    read_jpeg(data)     a JPEG's frame, scans and metadata, and whether it is of the plain kind

Python reading a few hundred bytes: no decoder library has seen the data when its caps are checked.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

from pipeline.image_metadata import UnreadableError, orientation_of_exif, orientation_of_xmp

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
Status = Literal["undecodable", "too_large", "failed"]

MAX_SCANS = 64
"""Of a JPEG. Encoders write up to 10 (libjpeg's own script) or some 20; a file of 298 KB with 500 of them
keeps every decoder busy for over 45 s."""
MAX_SEGMENTS = 4096
"""Of a JPEG's header: 256 MB of metadata. Each costs a turn of a Python loop."""
MAX_SCAN_PIXELS = 1_200_000_000
"""Pixels times scans: 100 million in libjpeg's 10, and some more."""
PLAIN_SCAN_PIXELS = 300_000_000
"""Pixels times scans, above which a JPEG is decoded behind the fence, which has a clock."""

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
_FRAMES = (0xC0, 0xC1, 0xC2)  # SOF0..2: Huffman-coded, baseline, extended and progressive
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither stuffing nor restart nor fill
_BETWEEN_SCANS = frozenset((0xC4, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE))
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_ICC, _MPF = b"ICC_PROFILE\0", b"MPF\0"


class ImageError(Exception):
    """These bytes give no pixels; the message says why, in one line."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, kw_only=True, slots=True)
class Jpeg:
    """What a JPEG's markers say."""

    height: int
    width: int
    """As stored: before orientation."""
    scans: int
    orientation: int
    """EXIF's, 1 to 8."""
    icc: bytes
    """The profile, empty where there is none."""
    odd: str | None
    """What is unusual about it; None: an 8-bit gray or YCbCr picture that any encoder writes."""


def sniff(data: bytes) -> Format:
    """The format of encoded bytes, by their first ones; a name is never asked.

    Raises:
        ImageError: none that is supported.
    """
    if not data:
        raise ImageError("undecodable", "no bytes at all")
    head = bytes(data[:64])
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
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
    raise ImageError("undecodable", f"{_name(head)}no image format that is supported")


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raises ImageError (`too_large`) for more than `max_pixels`."""
    if width * height > max_pixels:
        raise ImageError(
            "too_large", f"{width} x {height} is more than {max_pixels} pixels (--max-pixels)"
        )


def header_size(data: bytes, format: Format) -> tuple[int, int] | None:
    """(height, width) as stored, where the first bytes say it; None: only a parser knows.

    WebP's decoder takes memory for the whole canvas when it opens a file, so this must come before.
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


def read_jpeg(data: bytes) -> Jpeg:
    """Walk a JPEG's segments up to its first scan, and count its scans.

    Raises:
        ImageError: no frame or no scan in it (`undecodable`), more scans or segments than any encoder
            writes (`too_large`).
    """
    frame: tuple[int, int] | None = None
    odd: str | None = None
    exif = xmp = b""
    icc: dict[int, bytes] = {}
    at = 2
    for _ in range(MAX_SEGMENTS):
        marker, body, after, skipped = _segment(data, at)
        odd = odd or ("bytes between its segments" if skipped else None)
        if marker == 0xDA:
            break
        if marker in _FRAMES or marker in _OTHER_FRAMES:
            odd = odd or _odd_frame(marker, body, first=frame is None)
            if len(body) >= 6:
                frame = struct.unpack_from(">HH", body, 1)
        elif marker == 0xE1 and body.startswith(_EXIF):
            odd = odd or ("EXIF twice" if exif else None)
            exif = body[len(_EXIF) :]
        elif marker == 0xE1 and body.startswith(_XMP):
            xmp = xmp or body[len(_XMP) :]
        elif marker == 0xE2 and body.startswith(_ICC) and len(body) > 14:
            icc[body[12]] = body[14:]
        elif marker == 0xE2 and body.startswith(_MPF):
            odd = odd or "several pictures"
        at = after
    else:
        raise ImageError("too_large", f"a JPEG of more than {MAX_SEGMENTS} segments")
    if frame is None:
        raise ImageError("undecodable", "a JPEG without a frame header")
    scans, odd_scan = _count_scans(data, at)
    odd = odd or odd_scan
    height, width = frame
    if height * width * scans > MAX_SCAN_PIXELS:
        raise ImageError("too_large", f"{scans} scans of {width} x {height} pixels")
    if height * width * scans > PLAIN_SCAN_PIXELS:
        odd = odd or f"{scans} scans of {width} x {height} pixels"
    try:
        orientation = orientation_of_exif(exif) or orientation_of_xmp(xmp) or 1
    except UnreadableError:
        orientation, odd = 1, odd or "EXIF that cannot be read"
    return Jpeg(
        height=height,
        width=width,
        scans=scans,
        orientation=orientation,
        icc=b"".join(icc[n] for n in sorted(icc)),
        odd=odd,
    )


def _segment(data: bytes, at: int) -> tuple[int, bytes, int, bool]:
    """(marker, body, where the next begins, whether anything lay before it) of the segment at `at`; of a
    scan, its own position instead of the next's."""
    found = _MARKER.search(data, at)
    if found is None:
        raise ImageError("undecodable", "a JPEG that ends before its first scan")
    marker = data[found.end() - 1]
    skipped = data[at : found.start()].strip(b"\xff") != b""  # fill bytes are allowed
    if marker in (0x01, 0xD8):
        return marker, b"", found.end(), True
    if marker == 0xD9:
        raise ImageError("undecodable", "a JPEG that ends before its first scan")
    if marker == 0xDA:
        return marker, b"", found.end() - 2, skipped
    length = int.from_bytes(data[found.end() : found.end() + 2], "big")
    after = found.end() + length
    if length < 2 or after > len(data):
        raise ImageError("undecodable", "a JPEG whose header is cut short or damaged")
    return marker, data[found.end() + 2 : after], after, skipped


def _odd_frame(marker: int, body: bytes, *, first: bool) -> str | None:
    if not first:
        return "two frame headers"
    if marker in _OTHER_FRAMES:
        return f"a JPEG of kind SOF{marker - 0xC0}"
    if len(body) < 6 or body[0] != 8:
        return "samples of other than 8 bits"
    if not any(body[1:3]) or not any(body[3:5]):
        return "no size"
    return None if body[5] in (1, 3) else f"{body[5]} components"


def _count_scans(data: bytes, first: int) -> tuple[int, str | None]:
    """Scans from the one at `first` to the end of the picture, and what is odd between them.

    Raises:
        ImageError: more than `MAX_SCANS`.
    """
    scans, at, odd = 0, first, None
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            return scans, odd or "no end"
        end = found.end()
        marker = data[end - 1]
        if marker == 0xD9:
            return scans, odd
        if marker not in _BETWEEN_SCANS:
            # Decoders differ: one stops, another guesses on and gives noise for a picture.
            odd = "a stray marker in a scan"
        scans += marker == 0xDA
        if scans > MAX_SCANS:
            raise ImageError("too_large", f"a JPEG of more than {MAX_SCANS} scans")
        at = end + max(int.from_bytes(data[end : end + 2], "big"), 2)
    raise ImageError("too_large", f"a JPEG of more than {MAX_SEGMENTS} segments")


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
    """What the bytes are instead, with a colon; nothing where nobody knows."""
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
