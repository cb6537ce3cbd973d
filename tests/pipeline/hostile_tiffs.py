"""Bad TIFFs and PNGs of 16 bits: bombs, cycles, false tags, and kinds that no library reads."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np

from tests.pipeline.hostile_bytes import chunk, png, tiff
from tests.pipeline.tiff_bytes import ALPHA, PALETTE, RGB, YCBCR, Page, write_tiff

OK, UNDECODABLE, TOO_LARGE = (frozenset({status}) for status in ("ok", "undecodable", "too_large"))
EITHER = OK | UNDECODABLE
REFUSED = UNDECODABLE | TOO_LARGE
Case = tuple[str, bytes, frozenset[str], str]
"""Name, file, allowed statuses, and a part of the error or warning."""

GRAY = (np.arange(48 * 64) % 251).astype(np.uint8).reshape(48, 64)
DEEP = GRAY.astype(np.uint16) * 257
COLOURS = np.dstack([GRAY, GRAY.T.reshape(48, 64), 255 - GRAY])
PLACES = {273: (4, [8]), 279: (4, [16])}


def hostile_tiffs() -> Iterator[Case]:
    """Make all cases."""
    for group in (
        _directories,
        _segments,
        _bombs,
        _contradictions,
        _not_supported,
        _vendors,
        _deep,
    ):
        yield from group()


def sound() -> list[bytes]:
    """Make sound files of many compressions, to be damaged at random."""
    files = [
        write_tiff(
            Page(samples=DEEP, compression=number, pack=lambda data, _, pack=pack: pack(data))
        )
        for number, pack in _PACKS.items()
    ]
    files += [
        write_tiff(
            Page(
                samples=COLOURS,
                compression=number,
                pack=lambda data, shape, pack=pack: pack(
                    np.frombuffer(data, np.uint8).reshape(shape)
                ),
            )
        )
        for number, pack in {
            34712: imagecodecs.jpeg2k_encode,
            34887: imagecodecs.lerc_encode,
            50001: imagecodecs.webp_encode,
            50002: imagecodecs.jpegxl_encode,
            22610: imagecodecs.jpegxr_encode,
        }.items()
    ]
    files.append(write_tiff(Page(samples=DEEP, tile=16, planar=True), order=">", big=True))
    files.append(write_tiff(Page(samples=DEEP >> 4, bits=12)))
    files.append(png(8, 8, depth=16, rows=bytes(range(1, 50)) * 8))
    return files


def _edited(tags: dict[int, tuple[int, list[Any]]], **page: Any) -> bytes:
    return write_tiff(Page(**{"samples": DEEP, "tags": tags} | page))


def _directories() -> Iterator[Case]:
    """Make directories that never end, lie elsewhere, or claim too much."""
    whole = bytearray(write_tiff(Page(samples=DEEP), Page(samples=DEEP), Page(samples=DEEP)))
    first = struct.unpack_from("<I", whole, 4)[0]
    last = bytes(whole).rfind(b"\0\0\0\0")
    cycle = whole[:-4] + struct.pack("<I", first)
    assert last >= 0
    yield "TIFF pages in a circle", bytes(cycle), OK, "first frame of 3"
    yield "TIFF of 200 pages", write_tiff(*[Page(samples=GRAY)] * 200), OK, "first frame of several"
    yield "TIFF SubIFD that is its page", _edited({330: (4, [first])}), OK, ""
    yield "TIFF SubIFD past the end", _edited({330: (4, [2**31])}), OK, ""
    yield "TIFF 1000 SubIFDs", _edited({330: (4, list(range(8, 1008)))}), OK, ""
    entry = struct.pack("<HHII", 273, 4, 10**6, 8)
    claims = (
        b"II*\0\x08\0\0\0" + struct.pack("<H", 4000) + entry * 4000 + bytes(4) + bytes(4 * 10**6)
    )
    yield "TIFF 4000 tags of 4 MB each", claims, UNDECODABLE, "more bytes than the file"
    yield "TIFF 65535 tags", b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65535), UNDECODABLE, "tags"
    yield "TIFF 2 billion strips", _edited({273: (4, [8])}).replace(
        struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 4, 2**31)
    ), UNDECODABLE, ""  # fmt: skip
    yield "TIFF first directory 0", b"II*\0" + bytes(60), UNDECODABLE, "without a picture"
    yield "BigTIFF far away", b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(60), UNDECODABLE, "cut short"
    yield "BigTIFF 2^60 tags", b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * 8, UNDECODABLE, ""
    yield "BigTIFF of 9 bytes", b"MM\0+\0\x08\0\0\0", UNDECODABLE, "cut short"
    unknown = _edited({60000: (1, [1]), 60001: (12, [1.5] * 50)})
    yield "TIFF tags of nobody", unknown, OK, ""


def _segments() -> Iterator[Case]:
    """Make strips and tiles that are missing, empty, short or elsewhere."""
    yield "TIFF strip past the end", _edited({273: (4, [10**6])}), UNDECODABLE, "cut short"
    yield "TIFF short strip", _edited({279: (4, [100])}), UNDECODABLE, ""
    yield "TIFF strip of 0 bytes", _edited({279: (4, [0])}), UNDECODABLE, "empty"
    yield "TIFF too few strips", _edited({278: (4, [4])}), UNDECODABLE, "1 of 12 strips"
    yield "TIFF RowsPerStrip 0", _edited({278: (4, [0])}), EITHER, ""
    yield "TIFF no strips", _edited({273: (4, [])}), UNDECODABLE, "0 of 1 strips"
    yield "TIFF no byte counts", _edited({279: (4, [])}), OK, ""
    sparse = Page(samples=DEEP, tile=16, pack=lambda data, _: data if data[0] else b"")
    yield "TIFF some tiles left out", write_tiff(sparse), OK, "tiles are empty"
    tiled = Page(samples=DEEP, tile=16)
    for name, side in (("0", 0), ("1", 1), ("65536", 65536), ("2^31", 2**31)):
        page = Page(samples=DEEP, tile=16, tags={322: (4, [side]), 323: (4, [side])})
        yield f"TIFF tiles of side {name}", write_tiff(page), REFUSED, ""
    data = write_tiff(tiled)
    for percent in (20, 60, 95):
        cut = _directory_first(data)[: len(data) * percent // 100]
        yield f"TIFF u2 tiles cut at {percent}%", cut, UNDECODABLE, "cut short"
    for number, pack in _PACKS.items():
        page = Page(samples=DEEP, compression=number, pack=lambda data, _, pack=pack: pack(data))
        data = _directory_first(write_tiff(page))
        cut = data[: len(data) * 9 // 10]
        yield f"TIFF u2 compression {number} cut", cut, UNDECODABLE, ""


def _directory_first(data: bytes) -> bytes:
    """Append the strips behind the directory of a little-endian TIFF, as most writers do."""
    start = struct.unpack_from("<I", data, 4)[0]
    shift = len(data) - 8
    moved = bytearray(data[:4] + struct.pack("<I", start) + bytes(start - 8) + data[start:])
    (count,) = struct.unpack_from("<H", moved, start)
    for entry in range(count):
        at = start + 2 + 12 * entry
        tag, kind, number, value = struct.unpack_from("<HHII", moved, at)
        size = {1: 1, 2: 1, 3: 2, 4: 4, 12: 8}[kind] * number
        if size > 4:  # the values stay where the strips were
            moved[value : value + size] = data[value : value + size]
        if tag in (273, 324):
            offsets_at, number = (at + 8, 1) if number == 1 else (value, number)
            for n in range(number):
                (offset,) = struct.unpack_from("<I", moved, offsets_at + 4 * n)
                struct.pack_into("<I", moved, offsets_at + 4 * n, offset + shift)
    return bytes(moved) + data[8:start]


_PACKS: dict[int, Callable[[bytes], bytes]] = {
    5: imagecodecs.lzw_encode,
    8: zlib.compress,
    32773: imagecodecs.packbits_encode,
    34925: imagecodecs.lzma_encode,
    50000: imagecodecs.zstd_encode,
}


def _bombs() -> Iterator[Case]:
    """Make pictures that are larger than they look."""
    for name, size in (("40000", 40_000), ("2^32 - 1", 2**32 - 1)):
        large = _edited({256: (4, [size]), 257: (4, [size])})
        yield f"TIFF u2 {name} square", large, TOO_LARGE, "--max-pixels"
    for number, size in ((5, 10**5), (8, 10**7), (32773, 10**6), (50000, 10**7)):
        packed = _PACKS[number](bytes(size))
        page = Page(samples=DEEP, compression=number, pack=lambda _, __, packed=packed: packed)
        yield f"TIFF strip bomb {number}", write_tiff(page), EITHER, ""
    flat = np.zeros((8, 8, 3), np.uint8)
    jpeg = bytearray(imagecodecs.jpeg_encode(flat))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xdc\xff\xdc"
    j2k = bytearray(imagecodecs.jpeg2k_encode(flat, codecformat="j2k"))
    at = j2k.index(b"\xff\x51") + 6
    j2k[at : at + 8] = struct.pack(">II", 60_000, 60_000)
    webp = bytearray(imagecodecs.webp_encode(flat, lossless=True))
    webp[21:25] = b"\xff\xff\xff\x0f"
    bombs = {
        7: bytes(jpeg), 34712: bytes(j2k), 50001: bytes(webp), 34933: png(60_000, 60_000),
        50002: bytes(imagecodecs.jpegxl_encode(np.zeros((4000, 4000), np.uint8), effort=1)),
        34887: bytes(imagecodecs.lerc_encode(np.zeros((3000, 3001), np.uint8))),
    }  # fmt: skip
    for number, packed in bombs.items():
        page = Page(
            samples=flat, planar=number == 7, compression=number, pack=lambda _, __, p=packed: p
        )
        yield f"TIFF picture bomb {number}", write_tiff(page), REFUSED, ""
    random_ = random.Random(5)
    for number in (2, 3, 4, 5, 6, 7, 8, 22610, 32773, 33003, 34712, 34887, 34892, 34925, 34927, 34933,
                   50000, 50001, 50002, 52546):  # fmt: skip
        noise = random_.randbytes(3000)
        page = Page(samples=flat, compression=number, pack=lambda _, __, noise=noise: noise)
        statuses = EITHER if number in (2, 3, 4, 32773) else UNDECODABLE
        yield f"TIFF noise as compression {number}", write_tiff(page), statuses, ""


def _contradictions() -> Iterator[Case]:
    """Make tags that contradict each other."""
    for tag, value in (
        (256, 0), (257, 0), (258, 0), (258, 65535), (277, 0), (277, 65535), (284, 7), (339, 9),
        (262, 99), (317, 99), (317, 3), (274, 99), (266, 9),
    ):  # fmt: skip
        yield f"TIFF tag {tag} is {value}", _edited({tag: (3, [value])}), EITHER, ""
    yield "TIFF without a size", tiff(PLACES_ONLY), UNDECODABLE, "size"
    yield "TIFF palette without a map", _edited({}, photometric=PALETTE), UNDECODABLE, "colour map"
    short = {320: (3, [0, 1, 2])}
    page = Page(samples=GRAY, photometric=PALETTE, tags=short)
    yield "TIFF palette with a short map", write_tiff(page), UNDECODABLE, "colour"
    for factors in ([0, 0], [3, 3], [65535, 2], [2]):
        page = Page(samples=COLOURS, photometric=YCBCR, tags={530: (3, factors)})
        yield f"TIFF YCbCr in blocks {factors}", write_tiff(page), EITHER, ""
    two = Page(samples=DEEP.reshape(48, 32, 2), photometric=RGB)
    yield "TIFF RGB of two bands", write_tiff(two), UNDECODABLE, "2 bands"
    extra = Page(samples=GRAY, extra=(ALPHA,))
    yield "TIFF that is alpha only", write_tiff(extra), UNDECODABLE, ""
    many = Page(samples=GRAY[:4, :4, None].repeat(3000, axis=2), planar=True)
    yield "TIFF of 3000 planes", write_tiff(many), OK, "of 3000"
    infinite = np.full((4, 4), np.inf)
    for dtype in ("f2", "f4", "f8"):
        page = Page(samples=infinite.astype(dtype))
        yield f"TIFF {dtype} infinity", write_tiff(page), UNDECODABLE, "not finite"


PLACES_ONLY = {273: (4, 1, 8), 279: (4, 1, 16)}


def _not_supported() -> Iterator[Case]:
    """Make sound files of kinds that no library reads; the cause must not call them damaged."""
    for name, tags in {
        "CFA": {262: (3, [32803])},
        "linear raw": {262: (3, [34892])},
        "LogLuv": {262: (3, [32845])},
        "JBIG": {259: (3, [34661])},
        "ThunderScan": {259: (3, [32809])},
        "Nikon": {259: (3, [34713])},
        "compression 12345": {259: (3, [12345])},
        "a volume": {32997: (4, [7])},
        "complex": {339: (3, [6])},
        "complex integers": {339: (3, [5])},
        "three kinds of bits": {258: (3, [5, 6, 5]), 277: (3, [3])},
        "inks of a printer": {262: (3, [5]), 277: (3, [4]), 332: (3, [2])},
        "L*a*b* of 16 bits": {262: (3, [8])},
        "a mask alone": {262: (3, [4])},
        "floats of 128 bits": {258: (3, [128]), 339: (3, [3])},
    }.items():
        yield f"TIFF {name}", _edited(tags), UNDECODABLE, "not supported"


def _vendors() -> Iterator[Case]:
    """Make tags that readers of microscopes' files follow, filled with noise."""
    noise = list(random.Random(7).randbytes(600))
    for tag in (33628, 33629, 34118, 34361, 34362, 34412, 42112, 42113, 50838, 50839, 51023, 65000,
                65420, 65426, 65449, 270, 305, 700, 34377, 34665, 34675, 37724):  # fmt: skip
        yield f"TIFF noise in tag {tag}", _edited({tag: (1, noise)}), EITHER, ""
        yield f"TIFF numbers in tag {tag}", _edited({tag: (4, [2**31] * 40)}), EITHER, ""
    for text in (b"ImageJ=1.0\nimages=999999\nslices=99999999", b"<OME " + b"<a>" * 10_000,
                 b'{"shape": [999999, 999999]}', b"SCANIMAGE.SI", b"Aperio" * 500):  # fmt: skip
        name = text[:8].decode().strip()
        yield f"TIFF described as {name}", _edited({270: (1, list(text))}), OK, ""


def _deep() -> Iterator[Case]:
    """Make PNGs and PPMs of 16 bits."""
    yield "PNG 16 bits, 60000 square", png(60_000, 60_000, depth=16), TOO_LARGE, "--max-pixels"
    rows = bytes(1 + 6 * 8) * 8
    good = png(8, 8, depth=16, rows=rows)
    yield "PNG 16 bits cut", good[: len(good) // 2], UNDECODABLE, ""
    yield "PNG 16 bits, too few rows", png(8, 8, depth=16, rows=rows[:90]), UNDECODABLE, ""
    yield "PNG 16 bits, no rows", png(8, 8, depth=16), UNDECODABLE, ""
    yield "PNG 16 bits, 0 x 8", png(0, 8, depth=16), UNDECODABLE, ""
    yield "PNG 16 bits, colour type 5", png(8, 8, depth=16, colour=5, rows=rows), UNDECODABLE, ""
    yield "PNG 16 bits, palette", png(8, 8, depth=16, colour=3, rows=rows), UNDECODABLE, ""
    for bits in (b"", b"\0\0\0", b"\xff\xff\xff", b"\x0c"):
        extra = chunk(b"sBIT", bits)
        yield f"PNG sBIT {bits.hex()}", png(8, 8, depth=16, rows=rows, extra=extra), EITHER, ""
    bomb = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(80_000_000), 9))
    yield (
        "PNG 16 bits, profile bomb",
        png(8, 8, depth=16, rows=rows, extra=bomb),
        OK | TOO_LARGE,
        "",
    )
    wrong = good.replace(b"IDAT", b"IDAX")
    yield "PNG 16 bits, wrong CRC", wrong, UNDECODABLE, ""
    yield "P5 cut", b"P5 9 9 65535\n" + bytes(161), UNDECODABLE, "cut short"
    yield "P6 60000 square of 16 bits", b"P6 60000 60000 4095\n" + bytes(99), TOO_LARGE, ""
    yield "P6 of 0 pixels", b"P6 0 9 65535\n" + bytes(99), UNDECODABLE, ""
    yield "P6 up to 99999", b"P6 2 2 99999\n" + bytes(99), UNDECODABLE, ""
