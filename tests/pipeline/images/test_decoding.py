"""Decoding small images whose pixels are known, in every format and mode."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipeline.images import IMAGE_SUFFIXES, ImageError, decode, read_size
from pipeline.images.jpeg import read_jpeg
from tests.pipeline.odd_formats import bgra, bmp

# A 2 x 3 image (height x width) with six colours, so that every turn shows.
PIXELS = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        [[0, 0, 0], [128, 128, 128], [255, 255, 255]],
    ],
    dtype=np.uint8,
)
# What a viewer shows when the six pixels are stored with each orientation (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS, 1),
}


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def noise(height: int = 64, width: int = 96) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes) -> bytes:
    """Make a PNG with this header and these rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP"])
def test_lossless_formats_give_the_exact_pixels(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = decode(encode(Image.fromarray(PIXELS), format, **options))
    np.testing.assert_array_equal(decoded.pixels, PIXELS)
    assert decoded.warning is None


def test_pixels_are_writable_rgb_bytes() -> None:
    for image in (Image.fromarray(PIXELS), Image.fromarray(PIXELS).convert("L")):
        pixels = decode(encode(image)).pixels
        assert (pixels.dtype, pixels.shape) == (np.uint8, (2, 3, 3))
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


def test_a_jpeg_is_close_to_its_source() -> None:
    flat = Image.new("RGB", (64, 48), (200, 40, 90))
    pixels = decode(encode(flat, "JPEG", quality=95)).pixels
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - (200, 40, 90)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(Image.fromarray(PIXELS), format, exif=exif, **options)
    decoded = decode(data)
    np.testing.assert_array_equal(decoded.pixels, UPRIGHT[orientation])
    assert read_size(data) == UPRIGHT[orientation].shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_jpeg_is_applied(orientation: int) -> None:
    large = np.kron(PIXELS, np.ones((16, 16, 1), dtype=np.uint8))  # blocks of a colour survive JPEG
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(large), "JPEG", exif=exif, quality=95, subsampling=0)
    centres = decode(data).pixels[8::16, 8::16].astype(int)
    assert np.abs(centres - UPRIGHT[orientation]).max() <= 8
    assert read_size(data) == tuple(16 * side for side in UPRIGHT[orientation].shape[:2])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(PIXELS), exif=exif)
    np.testing.assert_array_equal(decode(data).pixels, PIXELS)
    assert read_size(data) == (2, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_image_with_damaged_exif_is_decoded() -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01"
    data = encode(noise(), "JPEG", exif=exif)
    assert decode(data).pixels.shape == (64, 96, 3)
    assert read_size(data) == (64, 96)


def test_16_bit_gray_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        pixels = decode(encode(Image.fromarray(values), format)).pixels
        assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]
        assert (pixels == pixels[:, :, :1]).all()


def test_16_bit_rgb_is_scaled() -> None:
    samples = np.array([65535, 0, 32896], dtype=">u2").tobytes()
    assert decode(png(1, 1, 16, 2, b"\0" + samples)).pixels.tolist() == [[[255, 0, 128]]]


def test_all_floats_are_scaled_from_0_to_1() -> None:
    """Whatever the samples: two images of a run are never scaled differently."""
    for values, wanted, says in (
        ([0.0, 0.5, 1.0], [0, 128, 255], None),
        ([0.0, 0.5, 1.001], [0, 128, 255], "samples are 0..1.001, cut at 0..1"),
        ([0.0, 100.4, 255.0], [0, 255, 255], "samples are 0..255, cut at 0..1"),
        ([-1.0, 0.0, 1.0], [0, 0, 255], "samples are -1..1, cut at 0..1"),
        ([0.0, 0.05, 0.09], [0, 13, 23], "samples are 0..0.09, less than a tenth of 0..1"),
    ):
        image = Image.fromarray(np.array([values], dtype=np.float32))
        decoded = decode(encode(image, "TIFF"))
        assert decoded.pixels[0, :, 0].tolist() == wanted
        assert decoded.warning is None if says is None else says in (decoded.warning or "")


def test_float_pixels_that_are_not_finite_are_undecodable() -> None:
    image = Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))
    with pytest.raises(ImageError, match="finite"):
        decode(encode(image, "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    white = Image.new("RGB", (4, 4), "white")
    image = white.convert(mode) if mode != "LAB" else Image.new("LAB", (4, 4), (255, 128, 128))
    pixels = decode(encode(image, "TIFF")).pixels
    assert pixels.shape == (4, 4, 3)
    assert pixels.min() >= 254


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = decode(encode(red, "JPEG", quality=95)).pixels.astype(int)
    assert np.abs(pixels - (255, 0, 0)).max() <= 4


def test_transparent_pixels_are_laid_on_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(255, 0, 0, 255), (12, 34, 56, 0), (0, 0, 0, 128)])
    pixels = decode(encode(rgba)).pixels
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[0, 1].tolist() == [255, 255, 255]
    assert np.abs(pixels[0, 2].astype(int) - 127).max() <= 1
    gray = Image.new("LA", (1, 1), (0, 0))
    assert decode(encode(gray)).pixels.tolist() == [[[255, 255, 255]]]


def test_a_transparent_palette_entry_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    decoded = decode(encode(image, transparency=0))
    assert decoded.pixels.tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_of_several_frames_is_decoded_and_a_warning_given(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    decoded = decode(data)
    assert decoded.warning == "first frame of 3"
    np.testing.assert_array_equal(decoded.pixels[4, 4], [255, 0, 0])


def test_a_multi_picture_jpeg_takes_hardly_longer_than_its_first_picture() -> None:
    first = noise(480, 640)
    plain = encode(first, "JPEG", quality=75)
    several = encode(first, "MPO", quality=75, save_all=True, append_images=[noise(48, 64)])
    best = [np.inf, np.inf]
    for _ in range(30):
        for n, data in enumerate((plain, several)):
            started = time.thread_time()
            decode(data)
            best[n] = min(best[n], time.thread_time() - started)
    assert best[1] / best[0] < 1.1


def test_the_empty_opacity_of_a_bmp_is_no_opacity() -> None:
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for alpha, expected in ((0, PIXELS), (255, PIXELS)):
        rows = bgra(PIXELS, np.full(PIXELS.shape[:2], alpha, np.uint8))
        data = bmp(rows, bits=32, header=124, compression=3, masks=masks)
        np.testing.assert_array_equal(decode(data).pixels, expected)
    one = np.zeros(PIXELS.shape[:2], np.uint8)
    one[0, 0] = 255
    data = bmp(bgra(PIXELS, one), bits=32, header=124, compression=3, masks=masks)
    assert decode(data).pixels.tolist() == [[[255, 0, 0], *[[255] * 3] * 2], [[255] * 3] * 3]


def test_a_multi_picture_jpeg_gives_its_first_picture() -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    decoded = decode(encode(first, "MPO", save_all=True, append_images=[second]))
    assert decoded.warning == "first frame of 2"
    assert decoded.pixels[8, 8, 0] > 250


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"not an image at all",
        b"<html><body>404</body></html>",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        b"%PDF-1.4\n",
        b"PK\x03\x04" + bytes(26),
        b"\x1f\x8b" + bytes(30),
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    ],
)
def test_bytes_that_are_no_image_are_undecodable(data: bytes) -> None:
    for call in (decode, read_size):
        with pytest.raises(ImageError) as caught:
            call(data)
        assert caught.value.status == "undecodable"
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_cut_image_is_undecodable(format: str, share: float) -> None:
    data = encode(noise(), format)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * share)])
    assert caught.value.status == "undecodable"


def test_a_progressive_jpeg_cut_in_its_last_scan_is_undecodable() -> None:
    data = encode(noise(), "JPEG", progressive=True)
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * 0.95)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL warns of the damage
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_damage_gives_pixels_or_an_image_error(format: str) -> None:
    data = encode(noise(16, 24), format)
    generator = np.random.default_rng(1)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(data)
        for at in generator.integers(0, len(data), 3):
            damaged[at] ^= 1 << generator.integers(0, 8)
        try:
            outcomes.add(decode(bytes(damaged), max_pixels=10**6).pixels.ndim)
        except ImageError as error:
            outcomes.add(error.status)
    assert outcomes <= {3, "undecodable", "too_large"}


def test_an_image_above_max_pixels_is_too_large() -> None:
    data = encode(noise(10, 10))
    assert decode(data, max_pixels=100).pixels.shape == (10, 10, 3)
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels=99)
    assert caught.value.status == "too_large"


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    for side in (60_000, 2**31 - 1):
        with pytest.raises(ImageError) as caught:
            decode(png(side, side, 8, 2, b""))
        assert caught.value.status == "too_large"


def test_only_max_pixels_limits_the_size() -> None:
    # PIL itself warns above 89 and refuses above 179 million pixels; --max-pixels may allow more.
    # The file has no pixels, which is noticed after the check of the size.
    data = png(20_000, 10_000, 1, 0, b"")
    with pytest.raises(ImageError) as caught:
        decode(data, max_pixels=200_000_000)
    assert caught.value.status == "undecodable"


def test_a_gif_frame_larger_than_its_canvas_is_too_large() -> None:
    data = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    at = data.index(b"\x2c\x00\x00\x00\x00\x08\x00\x08\x00") + 5  # width and height of the frame
    data[at : at + 4] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(ImageError) as caught:
        decode(bytes(data))
    assert caught.value.status == "too_large"


def test_the_content_decides_and_not_the_name() -> None:
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)
    for name, format in (("a.jpg", "PNG"), ("b.png", "JPEG")):
        assert decode(encode(noise(), format)).pixels.shape == (64, 96, 3), name


def test_bytes_after_the_image_are_ignored() -> None:
    data = encode(Image.fromarray(PIXELS)) + b"trailing bytes" * 100
    np.testing.assert_array_equal(decode(data).pixels, PIXELS)


@pytest.mark.parametrize("damage", ["stray marker", "no end", "second scan", "noise"])
def test_a_plain_jpeg_with_a_libjpeg_warning_is_decoded_behind_the_fence(
    damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`read_jpeg` does not read the scan of a sequential JPEG, so libjpeg must notice the damage."""
    good = encode(noise(64, 96), "JPEG", quality=75)
    first = good.index(b"\xff\xda")
    middle = (first + len(good)) // 2
    data = {
        "stray marker": good[:middle] + b"\xff\x37" + good[middle + 2 :],
        "no end": good[:-2],
        "second scan": good[:-2] + good[first:],
        "noise": good[:middle] + random.Random(0).randbytes(300) + good[middle + 300 :],
    }[damage]
    assert read_jpeg(data).odd is None
    assert decode(good).pixels.shape == (64, 96, 3)

    def fenced() -> None:
        raise InterruptedError("behind the fence")

    monkeypatch.setattr("pipeline.images.decoding.fence", fenced)
    assert decode(good).pixels.shape == (64, 96, 3)
    with pytest.raises(InterruptedError):
        decode(data)


def test_a_plain_jpeg_takes_little_more_time_than_simplejpeg_alone() -> None:
    """`jobs/benchmark.py decode` measures 0.92 to 0.95 of simplejpeg's speed on photographs. This test asks
    for less, because other programs may run at the same time."""
    data = encode(noise(480, 640), "JPEG", quality=75)
    best = [np.inf, np.inf]
    for _ in range(30):
        for n, call in enumerate((simplejpeg.decode_jpeg, decode)):
            started = time.thread_time()
            call(data)
            best[n] = min(best[n], time.thread_time() - started)
    assert best[0] / best[1] > 0.8


def test_long_and_tiny_images_are_decoded() -> None:
    for height, width in ((1, 1), (1, 5000), (5000, 1)):
        assert decode(encode(noise(height, width))).pixels.shape == (height, width, 3)
