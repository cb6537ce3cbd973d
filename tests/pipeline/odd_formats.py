"""Makes files that people have and few programs write: HEIC, JPEG XL, odd JPEGs and BMPs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.images.boxes import Box, find_box, read_boxes
from tests.pipeline.hostile_bytes import encode, segment, with_segments

SAMPLES = Path(__file__).parent / "images" / "samples"
Pixels = npt.NDArray[np.uint8]


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def colours(height: int = 48, width: int = 64) -> Pixels:
    """(H, W, 3): red grows to the right, green downwards, blue falls to the right."""
    y, x = np.mgrid[0:height, 0:width]
    red = x * 255 // (width - 1)
    return np.stack([red, y * 255 // (height - 1), 255 - red], axis=2).astype(np.uint8)


def half_opaque(height: int = 48, width: int = 64) -> Pixels:
    """(H, W): 255 in the left half, 0 in the right half."""
    return np.where(np.arange(width) < width // 2, 255, 0).astype(np.uint8) * np.ones(
        (height, 1), np.uint8
    )


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body


def box_at(heif: bytes, *path: bytes) -> Box:
    found = find_box(heif, *path)
    assert found is not None
    return found


def with_properties(heif: bytes, *properties: bytes) -> bytes:
    """Give the main picture of a HEIC file more properties, such as a turn. They apply after its others."""
    meta, iprp = box_at(heif, b"meta"), box_at(heif, b"meta", b"iprp")
    ipco, ipma = (box_at(heif, b"meta", b"iprp", kind) for kind in (b"ipco", b"ipma"))
    count = len(list(read_boxes(heif, ipco.start, ipco.end)))
    first = ipma.start + 8  # item number, number of its properties, one byte each
    added = bytes(0x80 | (count + n) for n in range(1, len(properties) + 1))
    entry = heif[first : first + 2] + bytes([heif[first + 2] + len(added)])
    known = heif[first + 3 : first + 3 + heif[first + 2]]
    rest = heif[first + 3 + heif[first + 2] : ipma.end]
    new_ipma = box(b"ipma", heif[ipma.start : first] + entry + known + added + rest)
    new_ipco = box(b"ipco", heif[ipco.start : ipco.end] + b"".join(properties))
    new_iprp = box(b"iprp", new_ipco + new_ipma)
    new_meta = box(
        b"meta", heif[meta.start : iprp.start - 8] + new_iprp + heif[iprp.end : meta.end]
    )
    new = heif[: meta.start - 8] + new_meta + heif[meta.end :]
    return _moved(new, len(new) - len(heif))


def _moved(heif: bytes, by: int) -> bytes:
    """Correct the positions of the pictures (`iloc`, version 0, one extent each) after a change of length."""
    iloc = box_at(heif, b"meta", b"iloc")
    assert heif[iloc.start] == 0
    assert heif[iloc.start + 4 : iloc.start + 6] == b"\x44\x40"
    data = bytearray(heif)
    (items,) = struct.unpack_from(">H", heif, iloc.start + 6)
    for item in range(items):
        at = iloc.start + 8 + 18 * item + 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", heif, at)[0] + by)
    return bytes(data)


def rotated(quarters: int) -> bytes:
    """Make the property that turns a picture anti-clockwise (ISO 23008-12, 6.5.10)."""
    return box(b"irot", bytes([quarters]))


def mirrored(axis: int) -> bytes:
    """Make the property that mirrors a picture: 0 exchanges top and bottom, 1 left and right."""
    return box(b"imir", bytes([axis]))


def spatial(width: int, height: int) -> bytes:
    return box(b"ispe", bytes(4) + struct.pack(">II", width, height))


def jxl(samples: npt.NDArray[Any], **options: Any) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(samples, **({"lossless": True} | options)))


def jxl_turned(data: bytes, orientation: int) -> bytes:
    """Write an orientation into the header of a JPEG XL codestream of 8-bit sRGB without opacity.

    The header is a row of bits. With a size to be shown at, 16 bits are added, so that what follows keeps its
    place in its bytes.
    """
    bits = [byte >> n & 1 for byte in data[2:40] for n in range(8)]
    at = _size_bits(bits)
    usual = [0, 0, 0, 0, 0]  # not all is usual, no more fields, integers, of 8 bits
    assert bits[at : at + 5] == usual, bits[at : at + 5]
    colours = at + 9
    assert bits[at + 6 : colours + 1] == [0, 0, 0, 1], "no opacity, no XYB, sRGB"
    turn = [orientation - 1 >> n & 1 for n in range(3)]
    shown_at = [1, *(0, 0, 0, 0, 0), *(1, 0, 0)]
    new = [0, 1, *turn, 1, *shown_at, 0, 0, *bits[at + 2 : colours + 1], 1]
    new = bits[:at] + new + bits[colours + 1 :]
    assert len(new) == len(bits) + 16
    packed = bytes(
        sum(bit << n for n, bit in enumerate(new[k : k + 8])) for k in range(0, len(new), 8)
    )
    return data[:2] + packed + data[40:]


def _size_bits(bits: list[int]) -> int:
    """Count the bits of the size at the beginning of a JPEG XL header."""
    lengths = (9, 13, 18, 30)

    def side(at: int) -> int:
        return at + 5 if bits[0] else at + 2 + lengths[bits[at] + 2 * bits[at + 1]]

    at = side(1) + 3
    return at if any(bits[at - 3 : at]) else side(at)


def exif_of_kind(value: int, kind: int, order: str = "<") -> bytes:
    """Make an EXIF segment whose orientation has this type: 1 BYTE, 3 SHORT, 4 LONG, 6, 8, 9 signed."""
    code = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}[kind]
    field = struct.pack(order + code, value).ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    entry = struct.pack(order + "HHHI", 1, 0x0112, kind, 1) + field + bytes(4)
    return segment(0xE1, b"Exif\0\0" + head + entry)


def several_pictures(first: Image.Image, number: int = 2, **options: Any) -> bytes:
    others = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    return encode(first, "MPO", save_all=True, append_images=others[: number - 1], **options)


def ultra_hdr(first: Image.Image, **options: Any) -> bytes:
    """Make a picture with a gain map behind it, as new phones write."""
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description hdrgm:Version="1.0"/>'
    return with_segments(several_pictures(first, **options), segment(0xE1, xmp))


def without_adobe(jpeg: bytes) -> bytes:
    """Remove the Adobe segment of a JPEG."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def bmp(
    samples: npt.NDArray[Any],
    *,
    bits: int,
    header: int = 40,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    top_down: bool = False,
) -> bytes:
    """Make a BMP of rows (H, bytes); header: 40, 56 (V3), 108 (V4) or 124 (V5)."""
    height, width = samples.shape[0], samples.shape[1] * 8 // bits
    rows = samples if top_down else samples[::-1]
    body = b"".join(row.tobytes() + bytes(-samples.shape[1] % 4) for row in rows.astype(np.uint8))
    head = struct.pack(
        "<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression,
        len(body), 2835, 2835, 0, 0,
    )  # fmt: skip
    head = (head + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    if header > 56:
        head = head[:56] + b"BGRs" + head[60:]
    return (
        b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body
    )


def bgra(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Interleave the bytes of a 32-bit BMP: (H, W, 3) and (H, W) to (H, 4 * W)."""
    return np.dstack([pixels[:, :, ::-1], alpha]).reshape(len(pixels), -1)
