"""Bad and unusual AVIF, HEIC, JPEG 2000 and JPEG XL files; JPEGs that end early or hold several pictures."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import imagecodecs
import numpy as np
from PIL import Image

from pipeline.images.boxes import find_box
from tests.pipeline.hostile_bytes import (
    encode,
    frame_at,
    patched,
    photo,
    segment,
    with_segments,
)
from tests.pipeline.hostile_case import OK, OK_OR_NOT, TOO_LARGE, UNDECODABLE, Hostile
from tests.pipeline.odd_formats import (
    box,
    exif_of_kind,
    jxl,
    mirrored,
    rotated,
    sample,
    several_pictures,
    spatial,
    ultra_hdr,
    with_properties,
)

NEW_FORMATS = ("AVIF", "HEIC", "JPEG 2000", "J2K", "JPEG XL")


def new_format(name: str, height: int = 48, width: int = 64) -> bytes:
    """Make a usual file of one of `NEW_FORMATS`."""
    image = photo(height, width)
    if name == "AVIF":
        return encode(image, "AVIF")
    if name == "HEIC":
        return sample("rgb_420.heic")
    if name == "JPEG XL":
        return jxl(np.asarray(image))
    return encode(image, "JPEG2000", no_jp2=name == "J2K")


def format_cases() -> Iterator[Hostile]:
    for group in (_cut, _damaged, _bombs, _lies, _boxes, _early_ends, _several, _odd_headers):
        yield from group()


def _cut() -> Iterator[Hostile]:
    for name in NEW_FORMATS:
        data = new_format(name)
        for percent in (5, 25, 50, 75, 95):
            cut = data[: len(data) * percent // 100]
            yield Hostile(f"{name} cut at {percent}%", cut, UNDECODABLE)


def _damaged() -> Iterator[Hostile]:
    random_ = random.Random(4)
    for name in NEW_FORMATS:
        data = new_format(name)
        for place, at in (("middle", len(data) // 2), ("header", 60)):
            flipped = patched(data, at, bytes([data[at] ^ 4]))
            yield Hostile(f"{name} bit flipped in its {place}", flipped, OK_OR_NOT)
        zeroed = patched(data, len(data) // 2, bytes(200))[: len(data)]
        yield Hostile(f"{name} 200 zeros", zeroed, OK_OR_NOT)
        noise = patched(data, len(data) // 3, random_.randbytes(300))[: len(data)]
        yield Hostile(f"{name} noise", noise, OK_OR_NOT)


def _size_at(data: bytes) -> int:
    """Find width and height in the property `ispe` of an AVIF or HEIC file."""
    return data.index(b"ispe") + 8


def _bombs() -> Iterator[Hostile]:
    avif, heic, jp2, j2k = (new_format(name) for name in NEW_FORMATS[:4])
    for side in (11_000, 60_000, 2**32 - 1):
        size = struct.pack(">II", side, side)
        yield Hostile(f"AVIF {side} square", patched(avif, _size_at(avif), size), TOO_LARGE)
        yield Hostile(f"HEIC {side} square", patched(heic, _size_at(heic), size), TOO_LARGE)
        at = jp2.index(b"ihdr") + 4
        yield Hostile(f"JPEG 2000 {side} square in its box", patched(jp2, at, size), TOO_LARGE)
        at = jp2.index(b"\xff\x4f\xff\x51") + 8
        yield Hostile(
            f"JPEG 2000 {side} square in its codestream", patched(jp2, at, size), TOO_LARGE
        )
        yield Hostile(f"J2K {side} square", patched(j2k, 8, size), TOO_LARGE)
    for bits, side in ((13, 2**13), (18, 2**18), (30, 2**30)):
        # not small, then the choice of 13, 18 or 30 bits for a side, all ones, and a ratio of 16:9
        choice = {13: 1, 18: 2, 30: 3}[bits]
        header = choice << 1 | (2**bits - 1) << 3 | 5 << (3 + bits)
        data = b"\xff\x0a" + header.to_bytes(8, "little") + bytes(40)
        yield Hostile(f"JPEG XL of {side} rows", data, TOO_LARGE)
    tiles = patched(j2k, 8 + 16, struct.pack(">II", 1, 1))
    yield Hostile("J2K in tiles of a pixel", tiles, OK_OR_NOT)
    large = patched(tiles, 8, struct.pack(">II", 9999, 9999))
    yield Hostile("J2K in 100 million tiles", large, UNDECODABLE)
    yield Hostile("J2K of 16384 bands", patched(j2k, 40, b"\x40\0"), UNDECODABLE)
    tables = b"".join(spatial(n, n) for n in range(1, 4000))
    yield Hostile("HEIC of 4000 sizes", with_properties(heic, tables), TOO_LARGE)


def _lies() -> Iterator[Hostile]:
    avif, heic, jp2 = (new_format(name) for name in NEW_FORMATS[:3])
    for name, width, height in (("smaller", 8, 8), ("larger", 1500, 1500), ("0 wide", 0, 48)):
        size = struct.pack(">II", width, height)
        # libavif scales the picture to the size that the file states.
        data = patched(avif, _size_at(avif), size)
        yield Hostile(f"AVIF {name} than it says", data, OK_OR_NOT)
        yield Hostile(f"HEIC {name} than it says", patched(heic, _size_at(heic), size), OK_OR_NOT)
        at = jp2.index(b"ihdr") + 4
        yield Hostile(f"JPEG 2000 {name} than it says", patched(jp2, at, size), OK_OR_NOT)
    bits = patched(jp2, jp2.index(b"ihdr") + 14, b"\x25")
    yield Hostile("JPEG 2000 of 38 bits", bits, OK_OR_NOT)
    offset = patched(jp2, jp2.index(b"\xff\x51") + 14, struct.pack(">II", 63, 47))
    yield Hostile("JPEG 2000 of one pixel by its offset", offset, OK_OR_NOT)
    beyond = patched(jp2, jp2.index(b"\xff\x51") + 14, struct.pack(">II", 640, 480))
    yield Hostile("JPEG 2000 whose offset lies beyond", beyond, UNDECODABLE)
    renamed = patched(heic, 8, b"avif")
    yield Hostile("HEIC under AVIF's brand", renamed, UNDECODABLE)
    yield Hostile("AVIF under HEIC's brand", patched(avif, 8, b"heic"), OK_OR_NOT)


def _boxes() -> Iterator[Hostile]:
    heic, avif, jp2 = new_format("HEIC"), new_format("AVIF"), new_format("JPEG 2000")
    for name, data in (("HEIC", heic), ("AVIF", avif)):
        main = find_box(data, b"meta", b"pitm")
        places = find_box(data, b"meta", b"iloc")
        links = find_box(data, b"meta", b"iprp", b"ipma")
        head = find_box(data, b"ftyp")
        assert main is not None
        assert places is not None
        assert links is not None
        assert head is not None
        yield Hostile(
            f"{name} main picture unknown", patched(data, main.start + 4, b"\x7f\x7f"), UNDECODABLE
        )
        far = patched(data, places.end - 8, b"\x7f\xff\xff\xff")
        yield Hostile(f"{name} pixels past the end", far, UNDECODABLE)
        many = patched(data, links.start + 4, b"\xff\xff\xff\xff")
        yield Hostile(f"{name} of 4 billion links", many, UNDECODABLE | TOO_LARGE)
        long = patched(data, links.start + 10, b"\xff")
        yield Hostile(f"{name} link of 255 properties", long, UNDECODABLE)
        for size in (0, 1, 7, 2**32 - 1):
            at = data.index(b"meta") - 4
            changed = patched(data, at, struct.pack(">I", size))
            yield Hostile(f"{name} meta of length {size}", changed, OK_OR_NOT)
        empty = data[: head.end] + struct.pack(">I4s", 8, b"free") * 50_000 + data[head.end :]
        yield Hostile(f"{name} after 50000 empty boxes", empty, OK_OR_NOT)
        yield Hostile(f"{name} without boxes", data[: head.end], UNDECODABLE)
        nested = box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", b"")))
        for _ in range(200):
            nested = box(b"meta", bytes(4) + nested)
        yield Hostile(f"{name} of nested boxes", data[: head.end] + nested, UNDECODABLE | TOO_LARGE)
        wide = data[:4] + b"ftyp" + data[8:12] + bytes(4) + data[8:12] * 100_000
        wide = struct.pack(">I", len(wide)) + wide[4:] + data[head.end :]
        yield Hostile(f"{name} of 100000 brands", wide, OK_OR_NOT)
    for kind in (b"dimg", b"auxl", b"thmb"):
        # the picture refers to itself
        reference = box(b"iref", bytes(4) + box(kind, struct.pack(">HHH", 1, 1, 1)))
        yield Hostile(
            f"HEIC that refers to itself by {kind.decode()}",
            _with_reference(heic, reference),
            OK_OR_NOT,
        )
    turned = with_properties(heic, *[rotated(1)] * 60)
    yield Hostile("HEIC turned 60 times", turned, OK_OR_NOT)
    yield Hostile("HEIC turned by 255", with_properties(heic, rotated(255), mirrored(9)), OK_OR_NOT)
    crop = box(b"clap", struct.pack(">8I", 2**31, 1, 2**31, 1, 0, 0, 0, 0))
    yield Hostile("HEIC cropped to 2 billion", with_properties(heic, crop), OK_OR_NOT)
    for size in (0, 1, 7):
        at = jp2.index(b"jp2h") - 4
        yield Hostile(
            f"JPEG 2000 header of length {size}",
            patched(jp2, at, struct.pack(">I", size)),
            OK_OR_NOT,
        )
    at = jp2.index(b"jp2c") - 4
    yield Hostile("JPEG 2000 without its codestream", jp2[:at], UNDECODABLE)
    palette = jp2.replace(b"colr", b"pclr")
    yield Hostile("JPEG 2000 of a false palette", palette, OK_OR_NOT)


def _with_reference(heic: bytes, reference: bytes) -> bytes:
    """Add a box of references at the end of `meta`, before the pixels."""
    meta = find_box(heic, b"meta")
    assert meta is not None
    longer = struct.pack(">I", meta.end - meta.start + 8 + len(reference))
    data = heic[: meta.start - 8] + longer + heic[meta.start - 4 : meta.end] + reference
    whole = bytearray(data + heic[meta.end :])
    at = whole.index(b"iloc") + 4 + 8 + 4
    struct.pack_into(">I", whole, at, struct.unpack_from(">I", whole, at)[0] + len(reference))
    return bytes(whole)


def _early_ends() -> Iterator[Hostile]:
    image = photo(192, 256)
    jpeg = encode(image, quality=90)
    last = "the file lacks its end"
    for name, options in {
        "baseline": {},
        "4:4:4": {"subsampling": 0},
        "progressive": {"progressive": True},
        "restart markers": {"restart_marker_rows": 1},
    }.items():
        data = encode(image, quality=90, **options)  # type: ignore[arg-type]
        yield Hostile(f"JPEG {name}, no end marker", data[:-2], OK, last)
        yield Hostile(f"JPEG {name}, half an end marker", data[:-1], OK, last)
        yield Hostile(f"JPEG {name}, half", data[: len(data) // 2], UNDECODABLE, last)
        yield Hostile(f"JPEG {name}, 12 bytes less", data[:-12], OK, last)
    yield Hostile("JPEG with zeros for its end", jpeg[:-30] + bytes(5000), OK, last)
    yield Hostile(
        "JPEG with zeros for its half", jpeg[: len(jpeg) // 2] + bytes(len(jpeg)), UNDECODABLE, last
    )
    yield Hostile(
        "JPEG of half and an end marker", jpeg[: len(jpeg) // 2] + b"\xff\xd9", UNDECODABLE, last
    )
    for name in ("CMYK", "L"):
        data = encode(image.convert(name), quality=90)
        yield Hostile(f"JPEG {name}, no end marker", data[:-2], OK, last)
    progressive = encode(image, progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    yield Hostile("JPEG without its last scan", progressive[:scan], UNDECODABLE, "whole scans")
    yield Hostile(
        "JPEG without its last scan, ended", progressive[:scan] + b"\xff\xd9", OK, "full detail"
    )
    several = sample("three_scans.jpg")
    scan = several.rindex(b"\xff\xda")
    yield Hostile("JPEG without its last colour", several[:scan], UNDECODABLE, "whole scans")
    flipped = patched(jpeg, len(jpeg) // 2, b"\xff\xff\xff\xff\xff")
    yield Hostile("JPEG damaged inside", flipped, OK_OR_NOT)


def _several() -> Iterator[Hostile]:
    image = photo()
    jpeg = encode(image)
    for number in (2, 3):
        data = several_pictures(image, number)
        yield Hostile(f"JPEG of {number} pictures", data, OK, f"first frame of {number}")
    data = several_pictures(image)
    yield Hostile("JPEG whose second picture is missing", data[: data.index(b"\xff\xd9") + 2], OK)
    yield Hostile("JPEG with a gain map", ultra_hdr(image), OK)
    for name, body in {
        "empty": b"",
        "far away": b"MM\0*\xff\xff\xff\xff",
        "of 65535 entries": b"II*\0\x08\0\0\0\xff\xff" + bytes(4000),
        "of 4 billion pictures": b"II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\x01\0\0\0\xff\xff\xff\xff"
        + bytes(4),
    }.items():
        yield Hostile(
            f"JPEG index of pictures {name}",
            with_segments(jpeg, segment(0xE2, b"MPF\0" + body)),
            OK,
        )


def _odd_headers() -> Iterator[Hostile]:
    image = photo()
    jpeg = encode(image)
    for kind in (1, 4, 6, 8, 9):
        yield Hostile(
            f"JPEG orientation of type {kind}", with_segments(jpeg, exif_of_kind(8, kind)), OK
        )
    yield Hostile("JPEG orientation -1", with_segments(jpeg, exif_of_kind(-1, 9)), OK)
    twelve = bytes(
        imagecodecs.jpeg8_encode(np.full((48, 64), 2000, np.uint16), 90, bitspersample=12)
    )
    yield Hostile("JPEG of 12 bits", twelve, OK)
    yield Hostile("JPEG of 12 bits, half", twelve[: len(twelve) // 2], OK_OR_NOT)
    at = twelve.index(b"\xff\xc1") + 5
    large = patched(twelve, at, struct.pack(">HH", 60_000, 60_000))
    yield Hostile("JPEG of 12 bits, large", large, TOO_LARGE)
    lossless = bytes(imagecodecs.jpeg8_encode(np.asarray(image), lossless=True))
    yield Hostile("JPEG lossless", lossless, OK)
    yield Hostile("JPEG lossless, half", lossless[: len(lossless) // 2], OK_OR_NOT)
    at = lossless.index(b"\xff\xc3") + 4
    yield Hostile(
        "JPEG lossless of 17 bits", patched(lossless, at, b"\x11"), UNDECODABLE, "17 bits"
    )
    yield Hostile("JPEG lossless of 2 components", patched(lossless, at + 5, b"\x02"), UNDECODABLE)
    at = frame_at(jpeg)
    for name, marker in (("hierarchical", b"\xc5"), ("lossless, arithmetic", b"\xcb")):
        yield Hostile(f"JPEG {name} in name", patched(jpeg, at - 3, marker), UNDECODABLE)
    for name in ("arithmetic", "arithmetic_progressive"):
        data = sample(f"{name}.jpg")
        yield Hostile(f"JPEG {name}", data, OK)
        yield Hostile(f"JPEG {name}, noise", patched(data, 400, b"\x12" * 60), OK_OR_NOT)
    nan = jxl(np.full((8, 8), np.nan, np.float32))
    yield Hostile("JPEG XL of NaN", nan, OK_OR_NOT)
    many = jxl(np.asarray(image), usecontainer=True)
    part = many.index(b"jxlc")
    yield Hostile("JPEG XL without its codestream", many[: part - 4], UNDECODABLE)
    yield Hostile("JPEG XL of an empty codestream", many[: part + 4], UNDECODABLE)
    empty = many[:32] + box(b"jxlp", bytes(4)) * 20_000
    yield Hostile("JPEG XL of empty parts", empty, UNDECODABLE)
    wide = new_format("JPEG 2000", 1, 20_000)
    yield Hostile("JPEG 2000 of 1 x 20000", wide, OK)
    long = encode(Image.new("RGB", (1, 20_000)), "AVIF")
    yield Hostile("AVIF of 20000 x 1", long, OK)
