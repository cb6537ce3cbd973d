"""Reading a JPEG's markers: plain or unusual, its size, its scans."""

from __future__ import annotations

import pytest

from pipeline.images.guard import ImageError
from pipeline.images.jpeg import MAX_SCANS, read_jpeg
from tests.pipeline.hostile_bytes import (
    encode,
    exif,
    photo,
    scan_bomb,
    segment,
    sized,
    with_segments,
)


def test_a_usual_jpeg_is_plain() -> None:
    for options in ({}, {"progressive": True}, {"exif": exif(8)}, {"optimize": True}):
        jpeg = read_jpeg(encode(photo(30, 70), **options))
        assert (jpeg.height, jpeg.width, jpeg.odd) == (30, 70, None)
        assert jpeg.orientation == (8 if "exif" in options else 1)
    assert read_jpeg(encode(photo())).scans == 1
    assert read_jpeg(encode(photo(), progressive=True)).scans == 10


def test_bytes_in_metadata_that_look_like_a_scan_are_not_counted() -> None:
    thumbnail = segment(0xE1, b"\xff\xda\0\x08" * 1000)
    data = with_segments(encode(photo()), thumbnail) + b"\xff\xda" * 1000
    assert (read_jpeg(data).scans, read_jpeg(data).odd) == (1, None)


def test_scans_are_counted_up_to_the_limit() -> None:
    first = read_jpeg(scan_bomb(1, 64)).scans
    assert read_jpeg(scan_bomb(MAX_SCANS - first + 1, 64)).scans == MAX_SCANS
    with pytest.raises(ImageError, match="more than 64 scans") as caught:
        read_jpeg(scan_bomb(MAX_SCANS - first + 2, 64))
    assert caught.value.status == "too_large"
    with pytest.raises(ImageError, match="60 scans of 9000 x 9000 pixels"):
        read_jpeg(scan_bomb(60 - first + 1, 9000))


def test_a_jpeg_that_decoders_disagree_on_is_unusual() -> None:
    jpeg, several = encode(photo()), encode(photo(), progressive=True)
    scan = several.index(b"\xff\xda") + 100
    for data, why in (
        (encode(photo(mode="CMYK")), "4 components"),
        (sized(jpeg, 0, 64), "no size"),
        (several[:scan] + b"\xff\x37" + several[scan + 2 :], "stray marker"),
        (several[:-2], "no end"),
        (encode(photo(), "MPO", save_all=True, append_images=[photo()]), "several pictures"),
        (with_segments(jpeg, b"garbage"), "between its segments"),
        (sized(encode(photo(), progressive=True), 9000, 9000), "10 scans of 9000 x 9000"),
    ):
        assert why in (read_jpeg(data).odd or "")
