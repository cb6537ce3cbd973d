"""Reads the headers of files that consist of boxes (ISO 14496-12): AVIF, HEIC, JPEG 2000.

The limits on pixels are checked with these sizes before a decoder gets the file. The code reads no pixels,
follows no references between boxes, and reads at most `_MOST` entries of each list.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

AVIF_BRANDS = frozenset((b"avif", b"avis", b"avio"))
CODED_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
"""Brands of pictures that HEVC codes."""
HEIF_BRANDS = CODED_BRANDS | {b"mif1", b"mif2", b"msf1"}
JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
J2K_SIGNATURE = b"\xff\x4f\xff\x51"  # SOC and SIZ
_MOST = 5000
"""Entries of a list at most. A HEIC picture of 100 million pixels has some 400 tiles."""
_BRAND_BYTES = 512

Size = tuple[int, int]
"""(height, width) in pixels, as stored."""


class Box(NamedTuple):
    """A box: its four letters, and where its content begins and ends."""

    kind: bytes
    start: int
    end: int


class Jp2(NamedTuple):
    """What the header of a JPEG 2000 picture states."""

    height: int
    width: int
    bits: int
    """Bits of a sample, the most of all components."""
    components: int
    has_alpha: bool
    """Whether a component is declared to be opacity."""


def brands(data: bytes) -> tuple[bytes, ...]:
    """Return the brands of a file that begins with a box `ftyp`, the major one first; else nothing."""
    if data[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(data[:4], "big"), _BRAND_BYTES, len(data))
    return (data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4)))


def read_boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Yield the boxes between two positions. It stops at a box that does not fit."""
    end = len(data) if end is None else end
    for _ in range(_MOST):
        if start + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if length == 1 and start + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        after = end if length == 0 else start + length
        if after < content or after > end:
            # The last box may be cut short: its beginning still tells the size.
            yield Box(kind, content, end)
            return
        yield Box(kind, content, after)
        start = after


def find_box(data: bytes, *path: bytes, start: int = 0, end: int | None = None) -> Box | None:
    """Find the first box at this path, e.g. ``b"meta", b"iprp"``."""
    box = next((b for b in read_boxes(data, start, end) if b.kind == path[0]), None)
    if box is None or len(path) == 1:
        return box
    # `meta` begins with a version and flags.
    skipped = 4 if box.kind == b"meta" else 0
    return find_box(data, *path[1:], start=box.start + skipped, end=box.end)


def heif_size(data: bytes) -> Size | None:
    """Read the size of the main picture of an AVIF or HEIC file, before it is turned; None if unknown.

    If the file does not say which picture is the main one, this is the size of the largest.
    """
    properties = find_box(data, b"meta", b"iprp", b"ipco")
    if properties is None:
        return None
    sizes: dict[int, Size] = {}
    for number, box in enumerate(read_boxes(data, properties.start, properties.end), start=1):
        if box.kind == b"ispe" and box.end - box.start >= 12:
            width, height = struct.unpack_from(">II", data, box.start + 4)
            sizes[number] = (height, width)
    main = [sizes[n] for n in _main_properties(data) if n in sizes]
    return max(main or sizes.values(), key=lambda size: size[0] * size[1], default=None)


def avif_bits(data: bytes) -> int:
    """Read the bits of a sample of the main picture of an AVIF file; 8 if it does not say more."""
    properties = find_box(data, b"meta", b"iprp", b"ipco")
    if properties is None:
        return 8
    bits, main = 8, _main_properties(data)
    for number, box in enumerate(read_boxes(data, properties.start, properties.end), start=1):
        body = data[box.start : box.end]
        if number not in main:
            continue
        if box.kind == b"pixi":  # version, flags and number of bands, then the bits of each
            bits = max(bits, *body[5:8], 0)
        elif box.kind == b"av1C" and len(body) > 2 and body[2] & 0x40:  # AV1-ISOBMFF, 2.3.3
            bits = max(bits, 12 if body[2] & 0x20 else 10)
    return bits


def _main_properties(data: bytes) -> list[int]:
    """Return the numbers of the properties of the main picture."""
    main, table = find_box(data, b"meta", b"pitm"), find_box(data, b"meta", b"iprp", b"ipma")
    if main is None or table is None:
        return []
    try:
        wide = data[main.start] > 0
        (item,) = struct.unpack_from(">I" if wide else ">H", data, main.start + 4)
        version, flags, count = struct.unpack_from(">B2xBI", data, table.start)
        at = table.start + 8
        for _ in range(min(count, _MOST)):
            (number,) = struct.unpack_from(">I" if version else ">H", data, at)
            at += 4 if version else 2
            length, size = data[at], 2 if flags & 1 else 1
            at += 1
            if number == item:
                numbers = (data[at + n * size : at + (n + 1) * size] for n in range(length))
                mask = 0x7FFF if size == 2 else 0x7F
                return [int.from_bytes(n, "big") & mask for n in numbers]
            at += length * size
    except (struct.error, IndexError):
        pass
    return []


def read_jp2(data: bytes) -> Jp2 | None:
    """Read the header of a JPEG 2000 file or codestream (ISO 15444-1, A.5.1 and I.5); None if it is damaged.

    Where the box and the codestream state different sizes, this is the larger.
    """
    at, header = 0, None
    if data.startswith(JP2_SIGNATURE):
        codestream, header = find_box(data, b"jp2c"), find_box(data, b"jp2h")
        if codestream is None:
            return None
        at = codestream.start
    if data[at : at + 4] != J2K_SIGNATURE:
        return None
    try:
        right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
        (components,) = struct.unpack_from(">H", data, at + 40)
        depths = [(data[at + 42 + 3 * n] & 0x7F) + 1 for n in range(min(components, _MOST))]
        height, width, has_alpha = bottom - top, right - left, False
        if header is not None:
            stated = find_box(data, b"ihdr", start=header.start, end=header.end)
            if stated is not None:
                height, width = max((height, width), struct.unpack_from(">II", data, stated.start))
            has_alpha = _declares_alpha(data, header)
    except (struct.error, IndexError):
        return None
    if height < 1 or width < 1 or not depths:
        return None
    return Jp2(height, width, max(depths), components, has_alpha)


def _declares_alpha(data: bytes, header: Box) -> bool:
    """Whether a channel definition (`cdef`) says that a component is opacity."""
    box = find_box(data, b"cdef", start=header.start, end=header.end)
    if box is None:
        return False
    (count,) = struct.unpack_from(">H", data, box.start)
    kinds = (
        struct.unpack_from(">H", data, box.start + 4 + 6 * n)[0] for n in range(min(count, 100))
    )
    return any(kind in (1, 2) for kind in kinds)
