"""Reads a JPEG's markers: size, scans, metadata, and whether the file is plain or unusual.

In most buckets nearly every image passes through this module. So it reads only what is needed for the limits,
the orientation and the choice of the decoder. This takes 20 microseconds; decoding takes half a millisecond.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from pipeline.images.guard import ImageError
from pipeline.images.metadata import UnreadableError, orientation_of_exif, orientation_of_xmp

MAX_SCANS = 64
"""Scans of a JPEG at most. Encoders write up to 10 (libjpeg's default script) or about 20. A file of 298 KB
with 500 scans keeps every decoder busy for more than 45 s."""
MAX_SEGMENTS = 4096
"""Segments of a JPEG's header at most: 256 MB of metadata. Each costs one turn of a Python loop."""
MAX_SCAN_PIXELS = 1_200_000_000
"""Pixels times scans at most: 100 million pixels in libjpeg's 10 scans, and some more."""
PLAIN_SCAN_PIXELS = 300_000_000
"""Pixels times scans above which a JPEG is decoded behind the fence, which has a time limit."""

_FRAMES = (0xC0, 0xC1, 0xC2)  # SOF0..2: Huffman-coded, baseline, extended and progressive
_SEQUENTIAL = (0xC0, 0xC1)
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker, but no stuffed byte, restart marker or fill byte."""
_USUAL = frozenset(bytes((0xFF, marker)) for marker in (*range(0xC0, 0xD0), *range(0xDA, 0xFF)))
_SILENT = frozenset(
    bytes((0xFF, marker)) for marker in (0xC4, 0xDB, 0xDD, 0xE0, *range(0xE3, 0xF0), 0xFE)
)
"""Segments that do not change how the picture is shown: tables, comments, data of applications."""
_BETWEEN_SCANS = frozenset((0xC4, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE))
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_ICC, _MPF = b"ICC_PROFILE\0", b"MPF\0"


class Jpeg(NamedTuple):
    """What the markers of a JPEG state."""

    height: int
    width: int
    """As stored, before orientation; `height` too."""
    scans: int
    orientation: int
    """EXIF orientation, 1 to 8."""
    icc: bytes
    """The ICC profile; empty if the file has none."""
    odd: str | None
    """What is unusual; None for a plain file: an 8-bit gray or YCbCr picture as every encoder writes it."""


def read_jpeg(data: bytes) -> Jpeg:
    """Read a JPEG's segments up to its first scan, and count its scans.

    If the first scan of a sequential frame holds all components, the frame has no second scan: libjpeg
    refuses one, and it warns of other damage in the first. So the bytes of that scan, nearly the whole file,
    are not read here. Reading them would double the time of this check.

    Raises:
        ImageError: the file has no frame or no scan (`undecodable`), or more scans or segments than any
            encoder writes (`too_large`).
    """
    frame: tuple[int, int] | None = None
    components = 0  # components of a sequential frame; 0 if the frame is progressive
    odd: str | None = None
    exif = xmp = b""
    icc: dict[int, bytes] = {}
    at = 2
    for _ in range(MAX_SEGMENTS):
        if data[at : at + 2] in _SILENT:
            after = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if at + 4 <= after <= len(data):
                at = after
                continue
        marker, start, after, skipped = _segment(data, at)
        odd = odd or ("bytes between its segments" if skipped else None)
        if marker == 0xDA:
            break
        if marker in _FRAMES or marker in _OTHER_FRAMES:
            body = data[start:after]
            odd = odd or _odd_frame(marker, body, first=frame is None)
            if len(body) >= 6:
                frame = struct.unpack_from(">HH", body, 1)
                components = body[5] if marker in _SEQUENTIAL else 0
        elif marker == 0xE1 and data.startswith(_EXIF, start, after):
            odd = odd or ("EXIF twice" if exif else None)
            exif = data[start + len(_EXIF) : after]
        elif marker == 0xE1 and data.startswith(_XMP, start, after):
            xmp = xmp or data[start + len(_XMP) : after]
        elif marker == 0xE2 and data.startswith(_ICC, start, after) and after - start > 14:
            icc[data[start + 12]] = data[start + 14 : after]
        elif marker == 0xE2 and data.startswith(_MPF, start, after):
            odd = odd or "several pictures"
        at = after
    else:
        raise ImageError("too_large", f"a JPEG with more than {MAX_SEGMENTS} segments")
    if frame is None:
        raise ImageError("undecodable", "a JPEG without a frame header")
    scans = 1
    if data[at + 4 : at + 5] != bytes((components,)):
        scans, odd_scan = _count_scans(data, at)
        odd = odd or odd_scan
    height, width = frame
    if height * width * scans > MAX_SCAN_PIXELS:
        raise ImageError("too_large", f"{scans} scans of {width} x {height} pixels")
    if height * width * scans > PLAIN_SCAN_PIXELS:
        odd = odd or f"{scans} scans of {width} x {height} pixels"
    orientation = 1
    if exif or xmp:
        try:
            orientation = orientation_of_exif(exif) or orientation_of_xmp(xmp) or 1
        except UnreadableError:
            odd = odd or "EXIF that cannot be read"
    return Jpeg(
        height=height,
        width=width,
        scans=scans,
        orientation=orientation,
        icc=b"".join(icc[n] for n in sorted(icc)) if icc else b"",
        odd=odd,
    )


def _segment(data: bytes, at: int) -> tuple[int, int, int, bool]:
    """Read the segment at `at`.

    Returns:
        (marker, start of its body, start of the next segment, whether other bytes lie before it). For a scan
        both positions are the start of the scan.
    """
    start = at
    if data[at : at + 2] not in _USUAL:
        match = _MARKER.search(data, at)
        if match is None:
            raise ImageError("undecodable", "a JPEG that ends before its first scan")
        start = match.start()
    marker = data[start + 1]
    skipped = start > at and data[at:start].strip(b"\xff") != b""  # fill bytes are allowed
    if marker in (0x01, 0xD8):
        return marker, start + 2, start + 2, True
    if marker == 0xD9:
        raise ImageError("undecodable", "a JPEG that ends before its first scan")
    if marker == 0xDA:
        return marker, start, start, skipped
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    after = start + 2 + length
    if length < 2 or after > len(data):
        raise ImageError("undecodable", "a JPEG whose header is cut short or damaged")
    return marker, start + 4, after, skipped


def _odd_frame(marker: int, body: bytes, *, first: bool) -> str | None:
    """Describe what is unusual about a frame header; None if nothing is."""
    if not first:
        return "two frame headers"
    if marker in _OTHER_FRAMES:
        return f"a JPEG of the kind SOF{marker - 0xC0}"
    if len(body) < 6 or body[0] != 8:
        return "samples that do not have 8 bits"
    if not any(body[1:3]) or not any(body[3:5]):
        return "no size"
    return None if body[5] in (1, 3) else f"{body[5]} components"


def _count_scans(data: bytes, first: int) -> tuple[int, str | None]:
    """Count the scans from the one at `first` to the end of the picture.

    Returns:
        The number of scans, and what is unusual between them or None.

    Raises:
        ImageError: there are more than `MAX_SCANS` scans, or more than `MAX_SEGMENTS` segments.
    """
    scans, at, odd = 0, first, None
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None:
            return scans, odd or "no end"
        end = match.end()
        marker = data[end - 1]
        if marker == 0xD9:
            return scans, odd
        if marker not in _BETWEEN_SCANS:
            # Decoders differ here: one stops, another continues by guessing and gives noise as pixels.
            odd = "a stray marker in a scan"
        scans += marker == 0xDA
        if scans > MAX_SCANS:
            raise ImageError("too_large", f"a JPEG with more than {MAX_SCANS} scans")
        at = end + max(int.from_bytes(data[end : end + 2], "big"), 2)
    raise ImageError("too_large", f"a JPEG with more than {MAX_SEGMENTS} segments")
