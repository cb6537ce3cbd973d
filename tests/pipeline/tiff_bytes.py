"""Writes TIFF files of any layout, tag by tag; most of them no encoder writes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR = range(7)
UNSPECIFIED, MULTIPLIED, ALPHA = range(3)
_KINDS = {"u": 1, "i": 2, "f": 3, "c": 6, "b": 1}
_CODES = {1: "B", 2: "s", 3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q"}


@dataclass(frozen=True, kw_only=True)
class Page:
    """One picture, its layout and further tags."""

    samples: Array
    """(H, W) or (H, W, B)."""
    photometric: int | None = None
    """Default: RGB for three or more bands of a picture without extra bands, else BLACK_IS_ZERO."""
    bits: int | None = None
    """Bits of a sample, where they are packed more densely than the type."""
    extra: tuple[int, ...] = ()
    planar: bool = False
    tile: int = 0
    rows_per_strip: int = 0
    compression: int = 1
    pack: Callable[[bytes, tuple[int, ...]], bytes] | None = None
    """Compresses the bytes of a strip or tile of this shape (H, W, B)."""
    tags: Mapping[int, tuple[int, Sequence[Any]]] = field(default_factory=dict)
    """Further tags, or others: tag -> (type, values). No values: the tag is left out."""
    inside: tuple[Page, ...] = ()
    """Pictures in its SubIFDs."""


def write_tiff(*pages: Page, order: str = "<", big: bool = False) -> bytes:
    """Make a TIFF; `order` is "<" or ">"."""
    out = bytearray(b"II" if order == "<" else b"MM")
    out += struct.pack(order + "HHHQ", 43, 8, 0, 0) if big else struct.pack(order + "HI", 42, 0)
    word = "Q" if big else "I"
    link = len(out) - struct.calcsize(word)
    for page in pages:
        at, following = _write(out, page, order, big)
        struct.pack_into(order + word, out, link, at)
        link = following
    return bytes(out)


def _write(out: bytearray, page: Page, order: str, big: bool) -> tuple[int, int]:
    """Append a page; return the offset of its directory, and where the offset of the next one goes."""
    offsets, counts = [], []
    for block in _blocks(page, order):
        offsets.append(len(out))
        counts.append(len(block))
        out += block + bytes(-len(block) % 4)
    inside = [_write(out, other, order, big)[0] for other in page.inside]
    entries = _entries(page, offsets, counts, inside) | dict(page.tags)
    word, room = ("Q", 8) if big else ("I", 4)
    rows, kept = b"", {tag: entry for tag, entry in entries.items() if len(entry[1])}
    for tag, (kind, values) in sorted(kept.items()):
        value = struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values)
        if len(value) > room:
            at = len(out)
            out += value + bytes(-len(value) % 4)
            value = struct.pack(order + word, at)
        head = struct.pack(f"{order}HH{word}", tag, kind, len(values))
        rows += head + value.ljust(room, b"\0")
    start = len(out)
    out += struct.pack(order + ("Q" if big else "H"), len(kept)) + rows
    following = len(out)
    out += bytes(room)
    return start, following


def _entries(
    page: Page, offsets: list[int], counts: list[int], inside: list[int]
) -> dict[int, tuple[int, Sequence[Any]]]:
    height, width = page.samples.shape[:2]
    bands = 1 if page.samples.ndim == 2 else page.samples.shape[2]
    photometric = page.photometric
    if photometric is None:
        photometric = RGB if bands - len(page.extra) == 3 else BLACK_IS_ZERO
    entries: dict[int, tuple[int, Sequence[Any]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [page.bits or page.samples.dtype.itemsize * 8] * bands),
        259: (3, [page.compression]),
        262: (3, [photometric]),
        277: (3, [bands]),
        284: (3, [2 if page.planar else 1]),
        338: (3, page.extra),
        339: (3, [_KINDS[page.samples.dtype.kind]] * bands),
        330: (4, inside),
    }
    if page.tile:
        side = [page.tile]
        return entries | {322: (3, side), 323: (3, side), 324: (4, offsets), 325: (4, counts)}
    return entries | {
        273: (4, offsets),
        278: (4, [page.rows_per_strip or height]),
        279: (4, counts),
    }


def _blocks(page: Page, order: str) -> Iterator[bytes]:
    samples = page.samples if page.samples.ndim == 3 else page.samples[:, :, None]
    planes = np.split(samples, samples.shape[2], axis=2) if page.planar else [samples]
    for plane in planes:
        for part in _parts(plane, page):
            data = _packed(part, page.bits, order)
            yield page.pack(data, part.shape) if page.pack else data


def _parts(plane: Array, page: Page) -> Iterator[Array]:
    height, width = plane.shape[:2]
    if not page.tile:
        step = page.rows_per_strip or height
        yield from (plane[top : top + step] for top in range(0, height, step))
        return
    side = page.tile
    padded = np.pad(plane, ((0, -height % side), (0, -width % side), (0, 0)))
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield padded[top : top + side, left : left + side]


def _packed(part: Array, bits: int | None, order: str) -> bytes:
    if bits is None or bits == part.dtype.itemsize * 8:
        return part.astype(part.dtype.newbyteorder(order)).tobytes()
    rows = part.reshape(len(part), -1).astype(np.uint32)
    each = rows[:, :, None] >> np.arange(bits - 1, -1, -1, dtype=np.uint32) & 1
    return np.packbits(each.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
