"""What a few bytes say of an image, before any decoder sees it."""

from __future__ import annotations

from typing import Literal

import pytest
from PIL import ImageCms

from pipeline.image_guard import MAX_SCANS, ImageError, header_size, read_jpeg, sniff
from pipeline.image_metadata import icc_warning, orientation_of_exif
from tests.pipeline.hostile_bytes import (
    encode,
    exif,
    icc_profile,
    photo,
    scan_bomb,
    segment,
    sized,
    with_segments,
)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_format_is_known_by_its_content(format: str) -> None:
    assert sniff(encode(photo(), format)) == format


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": exif(6)}])
def test_sizes_are_read_from_the_first_bytes(options: dict[str, object]) -> None:
    assert header_size(encode(photo(30, 70), "WEBP", **options), "WEBP") == (30, 70)
    for format in ("PNG", "GIF", "BMP"):
        data = encode(photo(30, 70), format)
        assert header_size(data, sniff(data)) == (30, 70)
        assert header_size(data[:9], sniff(data)) is None


def test_a_plain_jpeg_is_plain() -> None:
    for options in ({}, {"progressive": True}, {"exif": exif(8)}, {"optimize": True}):
        jpeg = read_jpeg(encode(photo(30, 70), **options))
        assert (jpeg.height, jpeg.width, jpeg.odd) == (30, 70, None)
        assert jpeg.orientation == (8 if "exif" in options else 1)
    assert read_jpeg(encode(photo())).scans == 1
    assert read_jpeg(encode(photo(), progressive=True)).scans == 10


def test_what_looks_like_a_scan_in_metadata_is_none() -> None:
    thumbnail = segment(0xE1, b"\xff\xda\0\x08" * 1000)
    data = with_segments(encode(photo()), thumbnail) + b"\xff\xda" * 1000
    assert (read_jpeg(data).scans, read_jpeg(data).odd) == (1, None)


def test_scans_are_counted_up_to_the_cap() -> None:
    first = read_jpeg(scan_bomb(1, 64)).scans
    assert read_jpeg(scan_bomb(MAX_SCANS - first + 1, 64)).scans == MAX_SCANS
    with pytest.raises(ImageError, match="more than 64 scans") as caught:
        read_jpeg(scan_bomb(MAX_SCANS - first + 2, 64))
    assert caught.value.status == "too_large"
    with pytest.raises(ImageError, match="60 scans of 9000 x 9000 pixels"):
        read_jpeg(scan_bomb(60 - first + 1, 9000))


def test_what_decoders_disagree_on_is_odd() -> None:
    jpeg = encode(photo())
    scan = jpeg.index(b"\xff\xda") + 100
    for data, why in (
        (encode(photo(mode="CMYK")), "4 components"),
        (sized(jpeg, 0, 64), "no size"),
        (jpeg[:scan] + b"\xff\x37" + jpeg[scan + 2 :], "stray marker"),
        (jpeg[:-2], "no end"),
        (encode(photo(), "MPO", save_all=True, append_images=[photo()]), "several pictures"),
        (with_segments(jpeg, b"garbage"), "between its segments"),
        (sized(encode(photo(), progressive=True), 9000, 9000), "10 scans of 9000 x 9000"),
    ):
        assert why in (read_jpeg(data).odd or "")


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_read_in_both_byte_orders(
    order: Literal["little", "big"], value: int
) -> None:
    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)

    head = (b"II" if order == "little" else b"MM") + number(42, 2) + number(8, 4)
    entry = number(0x0112, 2) + number(3, 2) + number(1, 4) + number(value, 2) + bytes(2)
    assert orientation_of_exif(head + number(1, 2) + entry + bytes(4)) == value


def test_a_profile_is_named_only_where_its_colours_are_others() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert icc_warning(b"") is None
    assert icc_warning(srgb) is None
    assert icc_warning(icc_profile("near sRGB", 0.4361)) is None
    assert icc_warning(icc_profile("P3\nwide", 0.515)) == "ICC profile 'P3wide' ignored"
    assert "ignored" in str(icc_warning(lab))
    for cut in (3, 40, 130, 150, 200):
        assert icc_warning(srgb[:cut]) == "ICC profile unreadable, ignored"
