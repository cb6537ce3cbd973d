"""Bad and unusual images, each with the statuses that it may get. The files are made in memory.

The files stay small: a large image is expensive through the size in its header. `OK_OR_NOT` marks damage that
a decoder need not notice: with a flipped bit inside a scan the file is a different but valid picture.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.pipeline.hostile_bytes import (
    chunk,
    encode,
    exif,
    frame_at,
    gray_tiff,
    icc_profile,
    patched,
    photo,
    png,
    scan_bomb,
    segment,
    sized,
    tiff,
    webp_extended,
    with_segments,
)
from tests.pipeline.hostile_case import OK, OK_OR_NOT, TOO_LARGE, UNDECODABLE, Hostile
from tests.pipeline.hostile_formats import format_cases
from tests.pipeline.hostile_tiffs import hostile_tiffs

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def corpus() -> list[Hostile]:
    """Make all cases."""
    groups = (_no_images, _cut, _damaged, _bombs, _odd_jpegs, _odd_depths, _odd_files, _metadata)
    groups += (_tiffs, format_cases)
    cases = [case for group in groups for case in group()]
    assert len({case.name for case in cases}) == len(cases)
    return cases


def _no_images() -> Iterator[Hostile]:
    jpeg = encode(photo())
    contents = {
        "empty": (b"", "no bytes"),
        "one byte": (b"\xff", ""),
        "zeros": (bytes(4096), ""),
        "noise": (random.Random(1).randbytes(4096), ""),
        "text": (b"not an image at all", ""),
        "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        "store's error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "SVG"),
        "pdf": (b"%PDF-1.7\n", "PDF"),
        "zip": (b"PK\x03\x04" + bytes(26), "ZIP"),
        "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip"),
        "newline before jpeg": (b"\n" + jpeg, ""),
        "psd": (b"8BPS\0\x01" + bytes(20), "Photoshop"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "PostScript"),
        "dos eps": (b"\xc5\xd0\xd3\xc6" + bytes(28), "PostScript"),
        "ico": (b"\0\0\1\0\1\0\x10\x10" + bytes(20), "icon"),
        "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        "avif": (b"\0\0\0\x20ftypavif" + bytes(40), "AVIF"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        "jpeg xl": (b"\xff\x0a" + bytes(40), "JPEG XL"),
        "mp4": (b"\0\0\0\x18ftypmp42" + bytes(40), "film"),
        "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "LFS"),
        "BM of a word": (b"BMW 320d, one owner, low mileage", ""),
        "P6 of a word": (b"P6X-500 manual", ""),
        "pickle": (b"\x80\x04\x95\x1c\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93.", ""),
    }  # fmt: skip
    for name, (data, says) in contents.items():
        yield Hostile(name, data, UNDECODABLE, says)
    for format, magic in (("JPEG", 3), ("PNG", 8), ("GIF", 6), ("WEBP", 12), ("TIFF", 4)):
        yield Hostile(f"{format} magic only", encode(photo(), format)[:magic], UNDECODABLE)


def _cut() -> Iterator[Hostile]:
    for format in FORMATS:
        data = encode(photo(), format)
        for percent in (25, 75):
            cut = data[: len(data) * percent // 100]
            yield Hostile(f"{format} cut at {percent}%", cut, UNDECODABLE)
    jpeg = encode(photo(96, 128))
    for name, at, statuses in (
        ("200 bytes", 200, UNDECODABLE),
        ("its scan", jpeg.index(b"\xff\xda"), UNDECODABLE),
        ("90%", len(jpeg) * 90 // 100, UNDECODABLE),
        ("99%", len(jpeg) * 99 // 100, OK),
        ("EOI", len(jpeg) - 2, OK),
    ):
        yield Hostile(f"JPEG cut at {name}", jpeg[:at], statuses)
    progressive = encode(photo(96, 128), progressive=True)
    for percent in (50, 95):
        yield Hostile(
            f"progressive cut at {percent}%",
            progressive[: len(progressive) * percent // 100],
            UNDECODABLE,
        )


def _damaged() -> Iterator[Hostile]:
    random_ = random.Random(2)
    for format in FORMATS:
        data = encode(photo(), format)
        middle = len(data) // 2
        flipped = patched(data, middle, bytes([data[middle] ^ 4]))
        yield Hostile(f"{format} bit flipped", flipped, OK_OR_NOT)
        zeroed = patched(data, middle, bytes(512))
        yield Hostile(f"{format} 512 zeros", zeroed[: len(data)], OK_OR_NOT)
    jpeg = encode(photo(256, 256))
    noise = patched(jpeg, len(jpeg) // 3, random_.randbytes(4096))
    yield Hostile("JPEG 4 KB of noise", noise[: len(jpeg)], OK_OR_NOT)
    at = frame_at(jpeg)
    for name, data in {
        "no quantisation table": jpeg.replace(b"\xff\xdb", b"\xff\xfe"),
        "no Huffman table": jpeg.replace(b"\xff\xc4", b"\xff\xfe"),
        "height 0": sized(jpeg, 0, 256),
        "width 0": sized(jpeg, 256, 0),
        "12 bits": patched(jpeg, at, b"\x0c"),
        "2 components": patched(jpeg, at + 5, b"\x02"),
        "sampling 0": patched(jpeg, at + 7, b"\0"),
        "two frames": jpeg[: at - 4] + jpeg[at - 4 : at + 15] + jpeg[at - 4 :],
        "arithmetic in name": patched(jpeg, at - 3, b"\xc9"),
        "lossless in name": patched(jpeg, at - 3, b"\xc3"),
        "segment of length 0": with_segments(jpeg, b"\xff\xe5\0\0"),
        "segment past the end": with_segments(jpeg, b"\xff\xe5\xff\xff")[:3000],
        "SOI twice": jpeg[:2] + jpeg,
    }.items():
        odd = name in (
            "12 bits",
            "no quantisation table",
            "no Huffman table",
            "arithmetic in name",
            "SOI twice",
        )
        yield Hostile(f"JPEG {name}", data, OK_OR_NOT if odd else UNDECODABLE)
    rows = bytes(1 + 3 * 8) * 8
    good = png(8, 8, rows=rows)
    ihdr, idat = good.index(b"IHDR"), good.index(b"IDAT")
    yield Hostile("PNG wrong CRC of header", patched(good, ihdr + 18, b"\0"), UNDECODABLE)
    yield Hostile("PNG damaged IDAT", patched(good, idat + 6, b"\xff\xff"), UNDECODABLE)
    yield Hostile("PNG depth 3", png(8, 8, depth=3, rows=rows), UNDECODABLE)
    yield Hostile("PNG without palette", png(8, 8, colour=3, rows=bytes(9) * 8), OK_OR_NOT)
    yield Hostile("PNG 0 x 8", png(0, 8), UNDECODABLE)
    # A flipped bit of this kind kills the process of another decoder.
    yield Hostile("PNG of 69 bytes", patched(png(1, 1, rows=bytes(4)), 45, b"\x7f"), UNDECODABLE)


def _bombs() -> Iterator[Hostile]:
    jpeg = encode(photo())
    for side in (20_000, 60_000, 2**31 - 1):
        yield Hostile(f"PNG {side} square", png(side, side), TOO_LARGE)
    packed = zlib.compress(bytes(80_000_000), 9)
    text = chunk(b"zTXt", b"Comment\0\0" + packed)
    yield Hostile("PNG text bomb", png(1, 1, rows=bytes(4), extra=text), TOO_LARGE | OK)
    profile = chunk(b"iCCP", b"x\0\0" + packed)
    yield Hostile("PNG profile bomb", png(1, 1, rows=bytes(4), extra=profile), TOO_LARGE | OK)
    pixels = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    yield Hostile(
        "PNG pixels bomb", pixels + chunk(b"IDAT", packed) + chunk(b"IEND", b""), OK_OR_NOT
    )
    large = png(12_000, 9_000, depth=1, colour=0, rows=bytes(1 + 12_000 // 8) * 9_000)
    yield Hostile("PNG 108 million real pixels", large, TOO_LARGE)
    for side in (30_000, 65_500):
        yield Hostile(f"JPEG {side} square", sized(jpeg, side, side), TOO_LARGE)
    yield Hostile("JPEG 500 scans", scan_bomb(500, 9_000), TOO_LARGE, "scans")
    yield Hostile("JPEG 20000 scans", scan_bomb(20_000, 64), TOO_LARGE, "scans")
    yield Hostile("JPEG 40 large scans", scan_bomb(40, 9_900), TOO_LARGE, "scans")
    tables = segment(0xDD, b"\0\0") * 10_000
    yield Hostile("JPEG 10000 segments", with_segments(jpeg, tables), TOO_LARGE, "segments")
    gif = encode(photo(8, 8, "P"), "GIF")
    yield Hostile("GIF canvas", patched(gif, 6, b"\xff\xff\xff\xff"), TOO_LARGE)
    frame = gif.index(b"\x2c\0\0\0\0") + 5
    yield Hostile("GIF frame", patched(gif, frame, b"\x60\xea\x60\xea"), TOO_LARGE)
    yield Hostile("TIFF 30000 square", gray_tiff(30_000, 30_000), TOO_LARGE)
    strip = (struct.pack("<HHII", 279, 4, 1, size) for size in (16, 2**31))
    yield Hostile("TIFF 2 GB strip", gray_tiff(4, 4).replace(*strip), OK_OR_NOT)
    yield Hostile("PPM 60000 square", b"P6 60000 60000 255\n" + bytes(100), TOO_LARGE)
    yield Hostile(
        "PPM size of 100 digits", b"P6 " + b"9" * 100 + b" 1 255\n", UNDECODABLE | TOO_LARGE
    )
    bmp = encode(photo(8, 8), "BMP")
    yield Hostile(
        "BMP 60000 square", patched(bmp, 18, struct.pack("<ii", 60_000, 60_000)), TOO_LARGE
    )
    yield Hostile("WebP canvas", webp_extended(16_384, 16_384), TOO_LARGE)


def _odd_jpegs() -> Iterator[Hostile]:
    image = photo()
    jpeg = encode(image)
    for name, data in {
        "progressive": encode(image, progressive=True),
        "optimised": encode(image, optimize=True),
        "4:4:4": encode(image, subsampling=0),
        "quality 1": encode(image, quality=1),
        "quality 100": encode(image, quality=100),
        "restart markers": encode(image, restart_marker_rows=1),
        "gray": encode(image.convert("L")),
        "CMYK": encode(image.convert("CMYK")),
        "stored as RGB": encode(image, keep_rgb=True),
        "JFIF 300 dpi": encode(image, dpi=(300, 300)),
        "comment": encode(image, comment=b"<script>alert(1)</script>" * 100),
        "second behind it": jpeg + jpeg,
        "archive behind it": jpeg + b"PK\x03\x04" + bytes(500),
        "200 segments of 64 KB": with_segments(jpeg, segment(0xEB, bytes(65_533)) * 200),
        "fill bytes": with_segments(jpeg, b"\xff\xff\xff" + segment(0xEB, b"x")),
        "1 x 1": encode(photo(1, 1)),
        "1 x 20000": encode(photo(1, 20_000)),
        "20000 x 1": encode(photo(20_000, 1)),
    }.items():
        yield Hostile(f"JPEG {name}", data, OK)
    for orientation in range(10):
        data = encode(image, exif=exif(orientation))
        yield Hostile(f"JPEG orientation {orientation}", data, OK)


def _odd_depths() -> Iterator[Hostile]:
    image = photo()
    ramp = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    for name, data in {
        "PNG 16-bit gray": encode(Image.fromarray(ramp), "PNG"),
        "PNG 16-bit RGB": png(4, 4, depth=16, rows=(b"\0" + bytes(range(24))) * 4),
        "PNG 16-bit RGBA": png(4, 4, depth=16, colour=6, rows=(b"\0" + bytes(range(32))) * 4),
        "PNG 2-bit gray": png(8, 8, depth=2, colour=0, rows=b"\0\x1b\x1b" * 8),
        "PNG interlaced": png(1, 1, colour=0, rows=b"\0\x80", interlace=1),
        **{f"PNG {m}": encode(image.convert(m), "PNG") for m in ("1", "L", "LA", "P", "RGBA")},
        "PNG palette and alpha": encode(image.convert("P"), "PNG", transparency=3),
        "TIFF 16-bit": encode(Image.fromarray(ramp), "TIFF"),
        "TIFF float": encode(Image.fromarray(ramp.astype(np.float32) / 65535), "TIFF"),
        "TIFF 32-bit": encode(Image.fromarray(ramp.astype(np.int32) * 9), "TIFF"),
        **{
            f"TIFF {mode}": encode(image.convert(mode), "TIFF")
            for mode in ("1", "CMYK", "LAB", "RGBA", "YCbCr")
        },
        **{
            f"TIFF {how}": encode(image, "TIFF", compression=how)
            for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        },
        "TIFF big": encode(image, "TIFF", big_tiff=True),
        "BMP palette": encode(image.convert("P"), "BMP"),
        "BMP 1-bit": encode(image.convert("1"), "BMP"),
        "BMP alpha": encode(image.convert("RGBA"), "BMP"),
        "GIF transparent": encode(image.convert("P"), "GIF", transparency=0),
        "WebP lossless": encode(image, "WEBP", lossless=True),
        "WebP alpha": encode(image.convert("RGBA"), "WEBP"),
        **{f"P{n}": data for n, data in enumerate(_pnm(), start=1)},
    }.items():  # fmt: skip
        yield Hostile(name, data, OK)
    nan = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    yield Hostile("TIFF of NaN", encode(nan, "TIFF"), UNDECODABLE, "not finite")


def _pnm() -> tuple[bytes, ...]:
    return (
        *(b"P1\n2 2\n0 1 1 0\n", b"P2 2 2 255\n1 2 3 4\n", b"P3 1 1 255\n1 2 3\n"),
        *(b"P4\n8 1\n\xaa", b"P5 2 2 65535\n" + bytes(8), b"P6 1 1 255\n\1\2\3"),
    )


def _odd_files() -> Iterator[Hostile]:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    for format in ("GIF", "WEBP", "TIFF", "PNG", "MPO"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        yield Hostile(f"{format} of three frames", data, OK, "first frame of 3")
    many = [Image.new("RGB", (1, 1), (n % 256, n // 256, 0)) for n in range(2000)]
    film = encode(many[0], "GIF", save_all=True, append_images=many[1:], duration=20)
    yield Hostile("GIF of many frames", film, OK, "first frame of")
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield Hostile("GIF cut in its second frame", gif[: gif.rindex(b"\x2c") + 6], OK, "first frame")
    yield Hostile("TIFF that is its own next page", gray_tiff(4, 4, following=8), OK)
    yield Hostile("TIFF next page past the end", gray_tiff(4, 4, following=2**31), OK)
    yield Hostile("TIFF without tags", tiff({}), UNDECODABLE)
    yield Hostile("TIFF directory past the end", b"II*\0\xff\xff\xff\x7f", UNDECODABLE)
    samples = tiff({256: (4, 1, 4), 257: (4, 1, 4), 277: (4, 1, 10**6)})
    yield Hostile("TIFF of a million samples", samples, UNDECODABLE)
    data = png(8, 8, rows=bytes(25) * 8)
    yield Hostile("PNG without its end", data[:-12], OK_OR_NOT)
    yield Hostile("PNG and more", data + b"\0" * 5000, OK)
    yield Hostile("PNG 1 x 20000", encode(photo(1, 20_000), "PNG"), OK)


def _tiffs() -> Iterator[Hostile]:
    for name, data, statuses, says in hostile_tiffs():
        yield Hostile(name, data, statuses, says)


def _metadata() -> Iterator[Hostile]:
    image = photo()
    jpeg = encode(image)
    for name, body in {
        "garbage": b"Exif\0\0" + random.Random(3).randbytes(300),
        "cut": b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        "looping": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
        "far away": b"Exif\0\0MM\0*\xff\xff\xff\xf0",
    }.items():
        yield Hostile(f"JPEG EXIF {name}", with_segments(jpeg, segment(0xE1, body)), OK)
    twice = segment(0xE1, b"Exif\0\0" + exif(6).removeprefix(b"Exif\0\0"))
    yield Hostile("JPEG EXIF twice", with_segments(jpeg, twice, twice), OK)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    yield Hostile("JPEG XMP orientation", with_segments(jpeg, segment(0xE1, xmp)), OK)
    wide = icc_profile("Wide gamut", 0.6)
    for format in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encode(image, format, icc_profile=wide)
        yield Hostile(f"{format} profile", data, OK, "ICC profile 'Wide gamut' ignored")
    garbage = encode(image, icc_profile=b"garbage" * 100)
    yield Hostile("JPEG profile garbage", garbage, OK, "ICC profile unreadable")
    yield Hostile("JPEG CMYK profile", encode(image.convert("CMYK"), icc_profile=wide), OK, "ICC")
