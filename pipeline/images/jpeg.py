"""Reads a JPEG's markers: size, scans, metadata, and whether the file is plain or unusual.

In most buckets nearly every image passes through this module. So it reads only what is needed for the limits,
the orientation and the choice of the decoder. This takes 20 microseconds; decoding takes half a millisecond.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from pipeline.images.guard import ImageError
from pipeline.images.metadata import (
    UnreadableError,
    orientation_of_exif,
    orientation_of_xmp,
    pictures_of_mpf,
)

MAX_SCANS = 64
"""Scans of a JPEG at most. Encoders write up to 10 (libjpeg's default script) or about 20. A file of 298 KB
with 500 scans keeps every decoder busy for more than 45 s."""
MAX_SEGMENTS = 4096
"""Segments of a JPEG's header at most: 256 MB of metadata. Each costs one turn of a Python loop."""
MAX_WHOLE_SCANS = 12
"""Pixels times scans at most, as a multiple of --max-pixels. An image of the largest size may have libjpeg's
10 scans, and some more."""
PLAIN_SCAN_PIXELS = 300_000_000
"""Pixels times scans above which a JPEG is decoded behind the fence, which has a time limit."""

_FRAMES = (0xC0, 0xC1, 0xC2)  # SOF0..2: Huffman-coded, baseline, extended and progressive
_SEQUENTIAL = (0xC0, 0xC1)
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
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
_GAIN_MAP = b"hdrgm:Version"
"""XMP of an Ultra HDR picture. Its second picture is not for people: it makes the first brighter on a screen
that can show it."""
LACKS_END = "the file lacks its end"
"""The beginning of the warning about a JPEG that ends before its picture does."""
EXIF_TWICE, EXIF_UNREADABLE = "EXIF twice", "EXIF that cannot be read"
LACKS_SCANS = "scans that end before the full detail"


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
    pictures: int
    """Pictures of a multi-picture file; 1 if the others only belong to the first, as a gain map does."""
    frame: bytes
    """The body of the frame header: precision, height, width, number of components, three bytes for each."""
    kind: int
    """The marker of the frame header, 0xC0 to 0xCF."""
    scan_at: int
    """Where the first scan begins."""
    odd: str | None
    """What is unusual; None for a plain file: an 8-bit gray or YCbCr picture as every encoder writes it."""


def read_jpeg(data: bytes, max_pixels: int = 100_000_000) -> Jpeg:
    """Read a JPEG's segments up to its first scan, and count its scans.

    If the first scan of a sequential frame holds all components, the frame has no second scan: libjpeg
    refuses one, and it warns of other damage in the first. So the bytes of that scan, nearly the whole file,
    are not read here. Reading them would double the time of this check.

    Args:
        data: the encoded file.
        max_pixels: limits the work of many scans, see `MAX_WHOLE_SCANS`. The size is not checked.

    Raises:
        ImageError: the file has no frame or no scan (`undecodable`), or more scans or segments than any
            encoder writes (`too_large`).
    """
    frame = b""
    kind = 0
    odd: str | None = None
    exif = xmp = b""
    icc: dict[int, bytes] = {}
    pictures = 1
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
            odd = odd or _odd_frame(marker, body, first=not frame)
            if len(body) >= 6:
                frame, kind = body, marker
        elif marker == 0xE1 and data.startswith(_EXIF, start, after):
            odd = odd or (EXIF_TWICE if exif else None)
            exif = data[start + len(_EXIF) : after]
        elif marker == 0xE1 and data.startswith(_XMP, start, after):
            xmp = xmp or data[start + len(_XMP) : after]
        elif marker == 0xE2 and data.startswith(_ICC, start, after) and after - start > 14:
            icc[data[start + 12]] = data[start + 14 : after]
        elif marker == 0xE2 and data.startswith(_MPF, start, after):
            pictures = pictures_of_mpf(data[start + len(_MPF) : after])
        at = after
    else:
        raise ImageError("too_large", f"a JPEG with more than {MAX_SEGMENTS} segments")
    if not frame:
        raise ImageError("undecodable", "a JPEG without a frame header")
    precision, height, width, components = struct.unpack_from(">BHHB", frame)
    num_scans = 1
    if kind not in _SEQUENTIAL or data[at + 4 : at + 5] != bytes((components,)):
        scans = read_scans(data, at)
        num_scans = len(scans.headers)
        odd = odd or scans.odd
        if not has_full_detail(scans, frame[6::3][:components], kind):
            odd = odd or LACKS_SCANS
    what = f"{num_scans} scans of {width} x {height} pixels"
    if height * width * num_scans > MAX_WHOLE_SCANS * max_pixels:
        raise ImageError(
            "too_large", f"{what}, more than {MAX_WHOLE_SCANS} times {max_pixels} (--max-pixels)"
        )
    if height * width * num_scans > PLAIN_SCAN_PIXELS:
        odd = odd or what
    orientation = 1
    if exif or xmp:
        try:
            orientation = orientation_of_exif(exif) or orientation_of_xmp(xmp) or 1
        except UnreadableError:
            odd = odd or EXIF_UNREADABLE
    return Jpeg(
        height=height,
        width=width,
        scans=num_scans,
        orientation=orientation,
        icc=b"".join(icc[n] for n in sorted(icc)) if icc else b"",
        pictures=1 if pictures > 1 and _GAIN_MAP in xmp else pictures,
        frame=frame,
        kind=kind,
        scan_at=at,
        odd=odd,
    )


def pictures_warning(jpeg: Jpeg) -> str | None:
    """Warn that a file has several pictures."""
    return None if jpeg.pictures == 1 else f"first frame of {jpeg.pictures}"


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


class Scans(NamedTuple):
    """The scans of a picture."""

    headers: tuple[bytes, ...]
    """The bodies of their headers (SOS)."""
    end: int | None
    """Where the end marker lies; None if the file ends before it."""
    odd: str | None
    """What is unusual between the scans."""


def read_scans(data: bytes, first: int) -> Scans:
    """Read the scans from the one at `first` to the end of the picture.

    Raises:
        ImageError: there are more than `MAX_SCANS` scans, or more than `MAX_SEGMENTS` segments.
    """
    headers, at, odd = list[bytes](), first, None
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None:
            return Scans(tuple(headers), None, odd or "no end")
        end = match.end()
        marker = data[end - 1]
        if marker == 0xD9:
            return Scans(tuple(headers), end - 2, odd)
        if marker not in _BETWEEN_SCANS:
            # Decoders differ here: one stops, another continues by guessing and gives noise as pixels.
            odd = "a stray marker in a scan"
        at = end + max(int.from_bytes(data[end : end + 2], "big"), 2)
        if marker == 0xDA:
            headers.append(data[end + 2 : at])
        if len(headers) > MAX_SCANS:
            raise ImageError("too_large", f"a JPEG with more than {MAX_SCANS} scans")
    raise ImageError("too_large", f"a JPEG with more than {MAX_SEGMENTS} segments")


def has_full_detail(scans: Scans, components: bytes, kind: int) -> bool:
    """Whether the scans give every component all 64 coefficients of its blocks, to the last bit.

    Args:
        scans: the scans of the picture.
        components: the numbers of the components, from the frame header.
        kind: the marker of the frame header.
    """
    whole = 2**64 - 1
    known = dict.fromkeys(components, 0)
    for header in scans.headers:
        count = header[0] if header else 0
        selected, rest = header[1 : 1 + 2 * count : 2], header[1 + 2 * count :]
        coefficients = whole
        if kind in _PROGRESSIVE:
            if len(rest) < 3:
                continue
            first, last, bits = rest[:3]
            # The low four bits are the position of the last bit that the scan gives (T.81, B.2.3).
            coefficients = 0 if bits & 15 else whole & (2 ** (last + 1) - 2**first)
        for component in selected:
            known[component] = known.get(component, 0) | coefficients
    return all(coefficients == whole for coefficients in known.values())
