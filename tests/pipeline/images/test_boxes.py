"""Sizes and brands of AVIF, HEIC and JPEG 2000, read without a decoder."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import pytest

from pipeline.images.boxes import brands, find_box, heif_size, read_boxes, read_jp2
from pipeline.images.guard import ImageError, sniff
from tests.pipeline.hostile_bytes import encode, patched, photo
from tests.pipeline.odd_formats import box, sample, spatial, with_properties


def heif(*boxes: bytes) -> bytes:
    return box(b"ftyp", b"heic" + bytes(4) + b"mif1heic") + box(b"meta", bytes(4) + b"".join(boxes))


def links(entries: dict[int, list[int]]) -> bytes:
    """Make the box that links each picture to its properties."""
    body = bytes(4) + struct.pack(">I", len(entries))
    for item, numbers in entries.items():
        body += struct.pack(">HB", item, len(numbers)) + bytes(numbers)
    return box(b"ipma", body)


def main_picture(item: int) -> bytes:
    return box(b"pitm", bytes(4) + struct.pack(">H", item))


def test_the_size_is_that_of_the_main_picture() -> None:
    properties = box(b"ipco", box(b"hvcC", b"x") + spatial(4000, 3000) + spatial(320, 240))
    table = links({1: [1, 3], 2: [1, 2]})
    for item, size in ((1, (240, 320)), (2, (3000, 4000))):
        assert heif_size(heif(main_picture(item), box(b"iprp", properties + table))) == size


def test_without_a_main_picture_the_size_is_the_largest() -> None:
    properties = box(b"iprp", box(b"ipco", spatial(320, 240) + spatial(4000, 3000)))
    assert heif_size(heif(properties)) == (3000, 4000)
    assert heif_size(heif(main_picture(9), properties)) == (3000, 4000)
    assert heif_size(heif()) is None


def test_the_size_of_real_files_is_read() -> None:
    assert heif_size(encode(photo(30, 70), "AVIF")) == (30, 70)
    assert heif_size(sample("rgb.heic")) == (64, 64)  # x265 codes squares of 64; `clap` crops them
    assert heif_size(with_properties(sample("rgb.heic"), spatial(9, 9))) == (64, 64)


def test_box_lengths_that_do_not_fit_end_the_reading() -> None:
    free = box(b"free", b"abc")
    assert [b.kind for b in read_boxes(free + free)] == [b"free", b"free"]
    assert [b.end for b in read_boxes(struct.pack(">I4s", 0, b"mdat") + bytes(50))] == [58]
    large = struct.pack(">I4sQ", 1, b"mdat", 24) + bytes(8) + free
    assert [(b.kind, b.start) for b in read_boxes(large)] == [(b"mdat", 16), (b"free", 32)]
    for length in (2, 7):
        assert list(read_boxes(struct.pack(">I4s", length, b"mdat") + free))[1:] == []
    assert len(list(read_boxes(struct.pack(">I4s", 8, b"free") * 20_000))) == 5000
    assert find_box(b"", b"meta") is None


def test_brands_end_with_their_box() -> None:
    assert brands(box(b"ftyp", b"heic" + bytes(4) + b"mif1") + b"avif") == (b"heic", b"mif1")
    assert brands(b"no boxes at all") == ()


@pytest.mark.parametrize(
    ("names", "format"),
    [
        ("avif mif1 miaf", "AVIF"),
        ("avis msf1", "AVIF"),
        ("mif1 avif", "AVIF"),
        ("heic mif1", "HEIF"),
        ("heix mif1 avif", "HEIF"),
        ("mif1 heic", "HEIF"),
        ("msf1 hevc", "HEIF"),
        ("xxxx mif1", "HEIF"),
    ],
)
def test_the_brands_choose_the_format(names: str, format: str) -> None:
    first, *others = (name.encode() for name in names.split())
    assert sniff(box(b"ftyp", first + bytes(4) + b"".join(others))) == format


@pytest.mark.parametrize(
    ("brand", "kind"), [(b"mp42", "a film"), (b"qt  ", "a film"), (b"crx ", "raw picture")]
)
def test_other_brands_are_named(brand: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=kind):
        sniff(box(b"ftyp", brand + bytes(4) + brand))


def test_a_jpeg_2000_header_states_size_depth_bands_and_opacity() -> None:
    assert read_jp2(encode(photo(30, 70), "JPEG2000")) == (30, 70, 8, 3, False)
    assert read_jp2(encode(photo(30, 70, "RGBA"), "JPEG2000")) == (30, 70, 8, 4, True)
    deep = np.zeros((40, 50), np.uint16)
    stream = bytes(imagecodecs.jpeg2k_encode(deep, 0, codecformat="j2k", bitspersample=12))
    assert read_jp2(stream) == (40, 50, 12, 1, False)


def test_the_larger_size_counts_if_a_jpeg_2000_states_two() -> None:
    data = encode(photo(30, 70), "JPEG2000")
    header, stream = data.index(b"ihdr") + 4, data.index(b"\xff\x51") + 6
    for at, size in ((header, (900, 800)), (stream, (800, 900))):
        changed = read_jp2(patched(data, at, struct.pack(">II", 900, 800)))
        assert changed is not None
        assert (changed.height, changed.width) == size


def test_a_cut_jpeg_2000_header_states_nothing() -> None:
    data = encode(photo(30, 70), "JPEG2000")
    assert read_jp2(data[: data.index(b"jp2c")]) is None
    assert read_jp2(data[: data.index(b"\xff\x51") + 10]) is None
    assert read_jp2(b"\xff\x4f\xff\x51") is None
