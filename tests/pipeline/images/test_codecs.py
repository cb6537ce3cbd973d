"""HEIC, JPEG XL and deep JPEG 2000: opacity, depth, notes, and what is said if the extra is not installed."""

from __future__ import annotations

import sys

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.images import decode, read_size
from pipeline.images.codecs import decode_deep_jp2, decode_heif, picture_of
from pipeline.images.guard import ImageError
from pipeline.images.pillow import decode_image
from pipeline.images.samples import SampleRules
from tests.pipeline.hostile_bytes import encode, exif, patched
from tests.pipeline.odd_formats import (
    box,
    colours,
    half_opaque,
    jxl,
    jxl_turned,
    rotated,
    sample,
    with_properties,
)


def test_without_the_extra_the_row_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(
        ImageError, match=r"pi-heif .* nodes.* pip install 'fastrcnn-ray\[heif\]'"
    ) as caught:
        decode_image(sample("rgb.heic"), "HEIF", 10**6)
    assert caught.value.status == "undecodable"


def test_a_heic_is_turned_once() -> None:
    data = with_properties(sample("rgb.heic"), rotated(3))
    assert read_size(data) == (64, 48)
    turned = decode(data).pixels
    assert np.abs(turned.astype(int) - np.rot90(colours(), 3)).max() <= 4


def test_the_orientation_in_exif_has_no_meaning_in_a_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras write the turn as a property, and again into EXIF. The property counts."""
    import pi_heif

    whole = pi_heif.HeifFile.__init__

    def with_exif(self: object, *args: object, **options: object) -> None:
        whole(self, *args, **options)
        for image in self:  # type: ignore[attr-defined]
            image.info["exif"] = exif(6)

    expected = decode_image(sample("rgb.heic"), "HEIF", 10**6).pixels
    monkeypatch.setattr(pi_heif.HeifFile, "__init__", with_exif)
    np.testing.assert_array_equal(decode_image(sample("rgb.heic"), "HEIF", 10**6).pixels, expected)


def test_sizes_are_read_after_the_turn() -> None:
    assert read_size(sample("rgb.heic")) == (48, 64)
    assert read_size(jxl_turned(jxl(colours()), 6)) == (64, 48)
    assert read_size(encode(Image.fromarray(colours()), "AVIF", exif=exif(6))) == (64, 48)
    assert read_size(encode(Image.fromarray(colours()), "JPEG2000")) == (48, 64)


@pytest.mark.parametrize("format", ["HEIC", "AVIF", "JPEG 2000", "JPEG XL"])
def test_a_picture_above_max_pixels_is_too_large(format: str) -> None:
    image = Image.fromarray(colours())
    data = {
        "HEIC": sample("rgb.heic"),
        "AVIF": encode(image, "AVIF"),
        "JPEG 2000": encode(image, "JPEG2000"),
        "JPEG XL": jxl(colours()),
    }[format]
    for call in (decode, read_size):
        with pytest.raises(ImageError, match="--max-pixels") as caught:
            call(data, max_pixels=48 * 64 - 1)
        assert caught.value.status == "too_large"


def test_the_size_of_a_heic_is_checked_again_after_it_is_cropped() -> None:
    """The coded square has 64 * 64 pixels, the picture 48 * 64."""
    assert decode_heif(sample("rgb.heic"), 48 * 64).image.size == (64, 48)


def test_samples_are_scaled_by_the_declared_bits() -> None:
    for bits, most in ((8, 255), (10, 1023), (12, 4095), (16, 65535)):
        kind = np.uint8 if bits == 8 else np.uint16
        samples = np.array([[0, most // 3, most]], kind)
        assert np.asarray(picture_of(samples, bits).image).tolist() == [[0, 85, 255]]
    floats = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert np.asarray(picture_of(floats, 0).image).tolist() == [[0, 128, 255]]


def test_samples_that_use_little_of_their_range_give_a_warning() -> None:
    dark = np.array([[0, 4000]], np.uint16)
    image, notes = picture_of(dark, 16)
    assert np.asarray(image).tolist() == [[0, 16]]
    (note,) = notes
    assert note.startswith("samples are 0..4000, less than a tenth of 0..65535 (16 bits)")
    assert picture_of(dark, 12).notes == []
    assert picture_of(np.array([[0, 20]], np.uint8), 8).notes == []  # a dark photograph


def test_floats_outside_their_range_are_cut_with_a_warning() -> None:
    image, notes = picture_of(np.array([[-1.0, 0.5, 2.0]], np.float32), 0)
    assert np.asarray(image).tolist() == [[0, 128, 255]]
    (note,) = notes
    assert note.startswith("samples are -1..2, cut at 0..1 (float32)")
    with pytest.raises(ImageError, match="not finite"):
        picture_of(np.array([[np.nan]], np.float32), 0)


def test_the_range_flag_holds_for_deep_samples_and_not_for_their_opacity() -> None:
    samples = np.array(
        [[[500, 1023], [1000, 512], [750, 0]]], np.uint16
    )  # gray and opacity, 10 bits
    image = picture_of(samples, 10, SampleRules(range=(500, 1000))).image
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0, 255), (255, 128), (128, 0)]


def test_more_than_four_bands_are_refused_with_their_number() -> None:
    with pytest.raises(ImageError, match="5 bands"):
        picture_of(np.zeros((4, 4, 5), np.uint8), 8)
    data = encode(Image.fromarray(colours()), "JPEG2000", no_jp2=True)
    with pytest.raises(ImageError, match="7 bands: at most 4"):
        decode_deep_jp2(patched(data, 40, b"\0\x07"))


def test_premultiplied_colours_are_divided_by_their_opacity() -> None:
    half = np.array([[[100, 50, 0, 128]]], np.uint8)
    image = picture_of(half, 8, premultiplied=True).image
    assert image.convert("RGBA").getpixel((0, 0)) == (199, 99, 0, 128)


def test_a_fourth_band_is_opacity_only_if_the_file_says_so() -> None:
    four = np.dstack([colours(), np.full((48, 64), 7, np.uint8)])
    tagged = encode(Image.fromarray(four), "JPEG2000")
    assert decode(tagged).pixels.min() > 240  # nearly white
    plain = decode(encode(Image.fromarray(four), "JPEG2000", no_jp2=True))
    np.testing.assert_array_equal(plain.pixels, colours())
    assert plain.warning == "band 4 ignored: the file does not say that it is opacity"


def test_jpeg_2000_of_reflectance_is_dark_with_a_warning() -> None:
    """Satellites' colours of 0..4000 in 16 bits must not turn black in silence."""
    deep = (colours().astype(np.uint32) * 4000 // 255).astype(np.uint16)
    image = decode(bytes(imagecodecs.jpeg2k_encode(deep, 0, reversible=True)))
    assert image.warning is not None
    assert image.warning.startswith("samples are 0..4000, less than a tenth of 0..65535 (16 bits)")


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("bits", [9, 10, 12, 15])
@pytest.mark.parametrize("container", ["jp2", "j2k"])
def test_jpeg_2000_of_any_depth_is_scaled_by_its_bits_and_by_the_range(
    container: str, bits: int, bands: int
) -> None:
    most = 2**bits - 1
    samples = np.array([[0, most // 4, most // 2, most]] * 4, np.uint16)
    if bands == 3:
        samples = np.dstack([samples] * 3)
    data = bytes(
        imagecodecs.jpeg2k_encode(
            samples, 0, codecformat=container, bitspersample=bits, reversible=True
        )
    )
    assert np.abs(decode(data).pixels[0, :, 0].astype(int) - [0, 64, 127, 255]).max() <= 1
    rules = SampleRules(range=(0, most // 2))
    assert (
        np.abs(decode(data, rules=rules).pixels[0, :, 1].astype(int) - [0, 127, 255, 255]).max()
        <= 1
    )


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_jpeg_2000_is_black_at_its_lowest_number(bits: int, bands: int) -> None:
    half = 2 ** (bits - 1)
    samples = np.array([[-half, -half // 2, 0, half - 1]] * 4, np.int16)
    if bands == 3:
        samples = np.dstack([samples] * 3)
    data = bytes(imagecodecs.jpeg2k_encode(samples, 0, bitspersample=bits, reversible=True))
    assert decode(data).pixels[0, :, 0].tolist() == [0, 64, 128, 255]
    rules = SampleRules(range=(0, half - 1))
    assert decode(data, rules=rules).pixels[0, :, 2].tolist() == [0, 0, 0, 255]


def deep_avif(samples: npt.NDArray[np.uint16], bits: int) -> bytes:
    return bytes(
        imagecodecs.avif_encode(samples, 100, bitspersample=bits, pixelformat="444", speed=9)
    )


@pytest.mark.parametrize("bits", [10, 12])
def test_a_deep_avif_follows_the_range_and_its_opacity_does_not(bits: int) -> None:
    most = 2**bits - 1
    deep = (colours().astype(np.uint32) * most // 255).astype(np.uint16)
    image = decode(deep_avif(deep, bits))
    assert image.warning is None
    assert np.abs(image.pixels.astype(int) - colours()).max() <= 6
    dark = (deep // 16).astype(np.uint16)
    warning = decode(deep_avif(dark, bits)).warning
    assert warning is not None
    assert warning.startswith("samples are 0..")
    assert f"less than a tenth of 0..{most} ({bits} bits)" in warning
    rules = SampleRules(range=(0, most // 16))
    opacity = (half_opaque() > 0) * np.uint16(most)
    shown = decode(deep_avif(np.dstack([dark, opacity]), bits), rules=rules).pixels.astype(int)
    assert np.abs(shown[:, :30] - colours()[:, :30]).max() <= 12
    assert shown[:, 34:].min() >= 250


def test_a_deep_avif_is_turned_once() -> None:
    deep = (colours().astype(np.uint32) * 1023 // 255).astype(np.uint16)
    data = deep_avif(deep, 10)
    at = data.index(b"colr") - 4  # the last property of the picture, 19 bytes
    data = data[:at] + rotated(1) + box(b"free", b"..") + data[at + 19 :]
    data = data.replace(b"\x04\x01\x02\x83\x04", b"\x04\x01\x02\x83\x84")  # essential
    assert read_size(data) == (64, 48)
    assert np.abs(decode(data).pixels.astype(int) - np.rot90(colours())).max() <= 6
