"""The header of JPEG XL, from files that libjxl wrote and from bits written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.images.jxl_header import read_jxl
from tests.pipeline.odd_formats import box, colours, jxl, jxl_turned

GRAY = np.ascontiguousarray(colours()[:, :, 0])


def bits(*numbers: tuple[int, int]) -> bytes:
    """Write (value, number of bits) one after the other, the lowest bit first, as a codestream."""
    value = at = 0
    for number, count in numbers:
        value |= number << at
        at += count
    return b"\xff\x0a" + value.to_bytes(-(-at // 8) + 4, "little")


SMALL = ((1, 1), (5, 5))
"""A height of 8 * (5 + 1) = 48."""


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (48, 64), (97, 131), (256, 256), (3, 5000), (5000, 3)]
)
def test_the_size_is_read(height: int, width: int) -> None:
    for container in (False, True):
        header = read_jxl(jxl(np.zeros((height, width, 3), np.uint8), usecontainer=container))
        assert header is not None
        assert (header.height, header.width) == (height, width)


def test_a_ratio_gives_the_width() -> None:
    for ratio, width in ((1, 48), (2, 57), (3, 64), (4, 72), (5, 85), (6, 60), (7, 96)):
        header = read_jxl(bits(*SMALL, (ratio, 3), (1, 1)))
        assert header is not None
        assert (header.height, header.width, header.bits) == (48, width, 8)


def test_the_largest_size_is_two_to_the_thirty() -> None:
    header = read_jxl(bits((0, 1), (3, 2), (2**30 - 1, 30), (1, 3), (1, 1)))
    assert header is not None
    assert (header.height, header.width) == (2**30, 2**30)


def test_the_depth_is_read() -> None:
    deep = GRAY.astype(np.uint16) << 4
    assert [read_jxl(data).bits for data in (jxl(GRAY), jxl(deep, bitspersample=12))] == [8, 12]  # type: ignore[union-attr]
    for dtype in (np.float16, np.float32):
        header = read_jxl(jxl((GRAY / 255).astype(dtype)))
        assert header is not None
        assert header.bits == 0


def test_a_turned_picture_states_its_upright_size() -> None:
    for orientation in range(1, 9):
        header = read_jxl(jxl_turned(jxl(colours()), orientation))
        assert header is not None
        assert (header.height, header.width) == ((64, 48) if orientation > 4 else (48, 64))


# not all is usual, more fields: turned 1, no size to be shown at, no preview
FIELDS = (*SMALL, (3, 3), (0, 1), (1, 1), (0, 3), (0, 1), (0, 1))
EIGHT_BITS = ((0, 1), (0, 2), (0, 1))


def test_an_animation_and_premultiplied_opacity_are_seen() -> None:
    frames = (
        (1, 1),
        (0, 2),
        (0, 2),
        (0, 2),
        (0, 1),
    )  # 100 / 1 a second, without end, no time codes
    opacity = ((1, 2), (0, 1), (0, 2), (0, 1), (0, 2), (0, 2), (0, 2), (1, 1))
    header = read_jxl(bits(*FIELDS, *frames, *EIGHT_BITS, *opacity, (0, 1), (1, 1)))
    assert header == (48, 64, 8, True, True, None)


def test_colours_that_are_not_srgb_are_named() -> None:
    start = (*FIELDS, (0, 1), *EIGHT_BITS, (0, 2), (0, 1), (0, 1), (0, 1), (0, 2))
    white = (1, 2)  # D65
    for primaries, transfer, name in (
        (((1, 2),), ((0, 1), (2, 2), (13 - 2, 4)), None),  # sRGB, as libjxl may write it
        (((1, 2),), ((0, 1), (2, 2), (8 - 2, 4)), "linear"),
        (((2, 2), (11 - 2, 4)), (), "P3"),
        (((2, 2), (9 - 2, 4)), (), "BT.2100"),
        (((1, 2),), ((1, 1),), "with a gamma of its own"),
    ):
        header = read_jxl(bits(*start, white, *primaries, *transfer))
        assert header is not None
        assert header.colours == name


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\x0a",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"jxlc", b"no codestream"),
        b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"jxlp", b"\0"),
    ],
)
def test_a_header_that_is_cut_short_states_nothing(data: bytes) -> None:
    assert read_jxl(data) is None


def test_a_codestream_in_parts_is_read() -> None:
    whole = jxl(colours())
    parts = box(b"jxlp", bytes(4) + whole[:5]) + box(b"jxlp", b"\x80\0\0\1" + whole[5:])
    assert read_jxl(b"\0\0\0\x0cJXL \r\n\x87\n" + parts) == read_jxl(whole)
