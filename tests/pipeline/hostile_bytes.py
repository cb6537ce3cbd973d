"""Makes image files that no encoder writes: with false headers, too many segments or unusual metadata."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def photo(height: int = 48, width: int = 64, mode: str = "RGB") -> Image.Image:
    """Make smooth colours with some noise: the image compresses as well as a photograph."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    ramps = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2)
    noisy = ramps + rng.integers(-12, 12, ramps.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def chunk(name: bytes, data: bytes, crc: int = 0) -> bytes:
    """Make one chunk of a PNG; `crc` is added to the correct checksum."""
    right = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", (right + crc) % 2**32)


def png(
    width: int,
    height: int,
    *,
    depth: int = 8,
    colour: int = 2,
    rows: bytes | None = None,
    extra: bytes = b"",
    interlace: int = 0,
) -> bytes:
    """Make a PNG with this header; by default it has too few pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows or b"", 9))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def segment(marker: int, body: bytes) -> bytes:
    """Make one segment of a JPEG."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Insert segments into a JPEG directly after its SOI marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def frame_at(jpeg: bytes) -> int:
    """Find the body of the segment SOF0 or SOF2: precision, height, width, components."""
    return max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2")) + 4


def sized(jpeg: bytes, height: int, width: int) -> bytes:
    """Write another size into the header of a JPEG."""
    return patched(jpeg, frame_at(jpeg) + 1, struct.pack(">HH", height, width))


def scan_bomb(scans: int, side: int) -> bytes:
    """Make a progressive JPEG that repeats its last scan. It is blank, so a scan is a few bytes."""
    blank = encode(Image.new("L", (16, 16)), progressive=True)
    last, end = blank.rindex(b"\xff\xda"), len(blank) - 2
    return sized(blank[:last] + blank[last:end] * scans + blank[end:], side, side)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return bytes(tags.tobytes())


def icc_profile(description: str, red_x: float) -> bytes:
    """Make the ICC profile of a display whose red differs from sRGB's."""
    xyz = [(red_x, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]
    bodies = {
        name: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))
        for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), xyz, strict=True)
    }
    text = description.encode() + b"\0"
    bodies[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    table, at, content = b"", 132 + 12 * len(bodies), b""
    for name, body in bodies.items():
        body += bytes(-len(body) % 4)
        table += struct.pack(">4sII", name, at + len(content), len(body))
        content += body
    size = struct.pack(">I", at + len(content))
    head = size + bytes(8) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(88)
    return head + struct.pack(">I", len(bodies)) + table + content


def tiff(entries: dict[int, tuple[int, int, int]], following: int = 0, tail: bytes = b"") -> bytes:
    """Make a little-endian TIFF with one directory: tag -> (type, count, value)."""
    directory = struct.pack("<H", len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        directory += struct.pack("<HHII", tag, kind, count, value)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", following) + tail


def gray_tiff(width: int, height: int, *, following: int = 0, strip_bytes: int = 16) -> bytes:
    """Make an uncompressed 8-bit TIFF that states this size."""
    entries = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, 8 + 2 + 9 * 12 + 4), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, strip_bytes),
    }  # fmt: skip
    return tiff(entries, following, bytes(range(16)) * (strip_bytes // 16))


def webp_extended(width: int, height: int) -> bytes:
    """Make a WebP that ends after the header of its canvas."""
    body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    data = b"WEBPVP8X" + struct.pack("<I", 10) + body
    return b"RIFF" + struct.pack("<I", len(data)) + data


def fuzzed(data: bytes, other: bytes, random_: random.Random) -> bytes:
    """Damage a file at random: flipped bits, a cut, zeros, noise, or a piece of another file."""
    kind = random_.randrange(6)
    damaged = bytearray(data)
    at = random_.randrange(len(data))
    length = min(random_.choice((1, 4, 64, 512)), len(data) - at)
    if kind <= 1:
        for _ in range(random_.choice((1, 1, 3, 20))):
            damaged[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    elif kind == 2:
        del damaged[at:]
    elif kind == 3:
        damaged[at : at + length] = bytes(length)
    elif kind == 4:
        damaged[at : at + length] = random_.randbytes(length)
    else:
        start = random_.randrange(len(other))
        damaged[at : at + length] = other[start : start + random_.choice((64, 512, 4096))]
    return bytes(damaged)
