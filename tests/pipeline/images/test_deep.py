"""PNG, PPM and PGM of more than 8 bits, and PNGs of fewer; the numbers are worked out by hand."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from pipeline.images import ImageError, SampleRules, decode
from tests.pipeline.hostile_bytes import chunk


def png(rows: list[bytes], width: int, bits: int, colour: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", pixels)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def test_opacity_in_the_low_bits_is_opaque_there() -> None:
    """A camera of 12 bits writes 4095 for opaque, and sBIT says so for the opacity too."""
    row = struct.pack(">6H", 0, 4095, 4095, 4095, 100, 0)  # black, white, transparent
    image = decode(png([row], 3, 16, 4, chunk(b"sBIT", b"\x0c\x0c")))
    assert image.pixels[0, :, 0].tolist() == [0, 255, 255]
    row = struct.pack(">6H", 0, 65535, 4095, 65535, 100, 0)
    image = decode(png([row], 3, 16, 4, chunk(b"sBIT", b"\x0c\x10")))
    assert image.pixels[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    ("bits", "row", "expected"),
    [
        (1, b"\x40", [255, 255]),  # 0 1: black is transparent
        (2, b"\x1b", [0, 255, 170, 255]),  # 0 1 2 3
        (4, b"\x01\x2f", [0, 255, 34, 255]),  # 0 1 2 15
    ],
)
def test_the_transparent_gray_has_the_depth_of_the_file(
    bits: int, row: bytes, expected: list[int]
) -> None:
    transparent = chunk(b"tRNS", struct.pack(">H", 0 if bits == 1 else 1))
    image = decode(png([row], len(expected), bits, 0, transparent))
    assert image.pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize("name", ["P2", "P3"])
def test_a_plain_ppm_is_scaled_by_its_highest_sample_and_by_the_range(name: str) -> None:
    numbers = [0, 0, 0, 1024, 1024, 1024, 4095, 4095, 4095]
    if name == "P2":
        numbers = numbers[::3]
    data = f"{name}\n# a camera\n3 1\n4095\n{' '.join(map(str, numbers))} # the end".encode()
    image = decode(data)
    assert (image.pixels[0, :, 1].tolist(), image.warning) == ([0, 64, 255], None)
    image = decode(data, rules=SampleRules(range=(0, 2048)))
    assert image.pixels[0, :, 1].tolist() == [0, 128, 255]


def test_a_dark_plain_ppm_gives_a_warning() -> None:
    warning = decode(b"P3 1 2 65535 0 0 0 9 40 4000").warning
    assert warning is not None
    assert warning.startswith("samples are 0..4000, less than a tenth of 0..65535")


@pytest.mark.parametrize(
    ("samples", "cause"),
    [
        ("0 1 2", "cut short: it has too few samples"),
        ("0 1 x 3", "no number"),
        ("0 1 -2 3", "no number"),
        ("0 1 2 70000", "the sample 70000, above 65535"),
        ("0 1 2 " + "3" * 5000, "no number"),
    ],
)
def test_a_damaged_plain_ppm_is_undecodable(samples: str, cause: str) -> None:
    with pytest.raises(ImageError, match=cause) as caught:
        decode(f"P2 2 2 4095 {samples}".encode())
    assert caught.value.status == "undecodable"


def test_plain_and_binary_give_the_same_pixels() -> None:
    samples = np.arange(0, 4096, 13, dtype=np.uint16)[:300].reshape(10, 10, 3)
    head = b" 10 10 4095\n"
    plain = b"P3" + head + " ".join(map(str, samples.ravel().tolist())).encode()
    binary = b"P6" + head + samples.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(plain).pixels, decode(binary).pixels)
