"""Reading a JPEG's markers: plain or unusual, its size, its scans."""

from __future__ import annotations

import pytest

from pipeline.images.guard import ImageError
from pipeline.images.jpeg import MAX_SCANS, has_full_detail, read_jpeg, read_scans
from tests.pipeline.hostile_bytes import (
    encode,
    exif,
    photo,
    scan_bomb,
    segment,
    sized,
    with_segments,
)
from tests.pipeline.odd_formats import sample, several_pictures, ultra_hdr


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


def test_the_limit_of_scans_follows_max_pixels() -> None:
    data = sized(encode(photo(), progressive=True), 10_001, 12_000)
    with pytest.raises(ImageError, match=r"10 scans of 12000 x 10001 pixels, .* \(--max-pixels\)"):
        read_jpeg(data)
    assert read_jpeg(data, 400_000_000).scans == 10
    assert read_jpeg(data, 400_000_000).odd == "10 scans of 12000 x 10001 pixels"


def test_a_file_of_several_pictures_is_plain() -> None:
    for number in (2, 3):
        jpeg = read_jpeg(several_pictures(photo(), number))
        assert (jpeg.pictures, jpeg.odd) == (number, None)
    with_gain_map = read_jpeg(ultra_hdr(photo()))
    assert (with_gain_map.pictures, with_gain_map.odd) == (1, None)


def test_full_detail_needs_all_scans() -> None:
    data = encode(photo(), progressive=True)
    jpeg = read_jpeg(data)
    scans = read_scans(data, jpeg.scan_at)
    components = jpeg.frame[6::3]
    assert (len(scans.headers), scans.end) == (10, len(data) - 2)
    assert has_full_detail(scans, components, jpeg.kind)
    for lacking in range(10):
        headers = scans.headers[:lacking] + scans.headers[lacking + 1 :]
        rest = scans._replace(headers=headers)
        # each later scan of the same coefficients gives the bit that completes them
        completes = scans.headers[lacking][-1] & 15 == 0
        assert has_full_detail(rest, components, jpeg.kind) is not completes
    several = sample("three_scans.jpg")
    jpeg = read_jpeg(several)
    scans = read_scans(several, jpeg.scan_at)
    assert has_full_detail(scans, jpeg.frame[6::3], jpeg.kind)
    assert not has_full_detail(
        scans._replace(headers=scans.headers[:2]), jpeg.frame[6::3], jpeg.kind
    )


def test_a_jpeg_that_decoders_disagree_on_is_unusual() -> None:
    jpeg, several = encode(photo()), encode(photo(), progressive=True)
    scan = several.index(b"\xff\xda") + 100
    for data, why in (
        (encode(photo(mode="CMYK")), "4 components"),
        (sized(jpeg, 0, 64), "no size"),
        (several[:scan] + b"\xff\x37" + several[scan + 2 :], "stray marker"),
        (several[:-2], "no end"),
        (several[: several.rindex(b"\xff\xda")] + b"\xff\xd9", "before the full detail"),
        (with_segments(jpeg, b"garbage"), "between its segments"),
        (sized(encode(photo(), progressive=True), 9000, 9000), "10 scans of 9000 x 9000"),
    ):
        assert why in (read_jpeg(data).odd or "")
