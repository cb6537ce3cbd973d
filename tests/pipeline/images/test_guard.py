"""Format, size, orientation and profile, read from a few bytes before any decoder gets them."""

from __future__ import annotations

import struct
from typing import Literal

import pytest
from PIL import ImageCms

from pipeline.images.guard import header_size, sniff
from pipeline.images.metadata import (
    UnreadableError,
    icc_warning,
    orientation_of_exif,
    pictures_of_mpf,
)
from tests.pipeline.hostile_bytes import encode, exif, icc_profile, photo
from tests.pipeline.odd_formats import exif_of_kind


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_format_is_recognised_by_its_content(format: str) -> None:
    assert sniff(encode(photo(), format)) == format


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": exif(6)}])
def test_sizes_are_read_from_the_first_bytes(options: dict[str, object]) -> None:
    assert header_size(encode(photo(30, 70), "WEBP", **options), "WEBP") == (30, 70)
    for format in ("PNG", "GIF", "BMP"):
        data = encode(photo(30, 70), format)
        assert header_size(data, sniff(data)) == (30, 70)
        assert header_size(data[:9], sniff(data)) is None


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


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
def test_orientation_may_have_any_integer_type(kind: int, order: str) -> None:
    for value, orientation in ((6, 6), (8, 8), (0, 1), (9, 1), (100, 1)):
        exif_data = exif_of_kind(value, kind, order)[10:]
        assert orientation_of_exif(exif_data) == orientation
    if kind >= 6:
        assert orientation_of_exif(exif_of_kind(-6, kind, order)[10:]) == 1
    if kind in (4, 9):
        assert orientation_of_exif(exif_of_kind(2**16 + 6, kind, order)[10:]) == 1


def test_an_orientation_that_is_no_integer_is_unreadable() -> None:
    exif_data = bytearray(exif_of_kind(6, 3)[10:])
    exif_data[12] = 2  # ASCII
    with pytest.raises(UnreadableError):
        orientation_of_exif(bytes(exif_data))


def test_the_number_of_pictures_is_read_from_an_index() -> None:
    entry = struct.pack(">HHII", 0xB001, 4, 1, 3)
    assert pictures_of_mpf(b"MM\0*\0\0\0\x08\0\1" + entry) == 3
    for broken in (b"", b"MM\0*\0\0\0\x08\0\2" + bytes(5), b"MM\0*\xff\xff\xff\xff", b"no index"):
        assert pictures_of_mpf(broken) == 1


def test_a_warning_names_a_profile_only_if_its_colours_differ_from_srgb() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert icc_warning(b"") is None
    assert icc_warning(srgb) is None
    assert icc_warning(icc_profile("near sRGB", 0.4361)) is None
    assert icc_warning(icc_profile("P3\nwide", 0.515)) == "ICC profile 'P3wide' ignored"
    assert "ignored" in str(icc_warning(lab))
    for cut in (3, 40, 130, 150, 200):
        assert icc_warning(srgb[:cut]) == "ICC profile unreadable, ignored"
