"""Samples become 8 bits by one rule; the numbers are worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.images import ImageError, SampleRules
from pipeline.images.samples import Declared, declared_bits, pick_bands, scaled, to_8_bits


def shown(values: list[float], dtype: str, **options: Any) -> tuple[list[int], str | None]:
    pixels, warning = to_8_bits(np.array([values], dtype), **options)
    assert pixels.dtype == np.uint8
    return pixels[0].tolist(), warning


@pytest.mark.parametrize(
    ("dtype", "values", "pixels"),
    [
        ("u1", [0, 40, 255], [0, 40, 255]),
        ("u2", [0, 257, 32768, 65535], [0, 1, 128, 255]),
        ("u4", [0, 2**31, 2**32 - 1], [0, 128, 255]),
        ("i1", [-128, 0, 127], [0, 128, 255]),
        ("i2", [-32768, -1, 32767], [0, 127, 255]),
        ("f4", [0, 0.5, 1], [0, 128, 255]),
        ("f2", [0, 0.25, 1], [0, 64, 255]),
        ("f8", [0, 0.2, 1], [0, 51, 255]),
        ("bool", [0, 1], [0, 255]),
    ],
)
def test_the_type_decides_where_nothing_else_does(
    dtype: str, values: list[float], pixels: list[int]
) -> None:
    assert shown(values, dtype) == (pixels, None)


@pytest.mark.parametrize(
    ("dtype", "values", "warning"),
    [
        ("u2", [0, 4095], "samples are 0..4095, less than a tenth of 0..65535 (uint16)"),
        ("u2", [29315, 30815], "samples are 29315..30815, less than a tenth"),
        ("u2", [0, 0], "samples are 0..0, less than a tenth"),
        ("u4", [0, 255], "samples are 0..255, less than a tenth of 0..4294967295 (uint32)"),
        ("i2", [0, 10000], "samples are 0..10000, in the upper half of -32768..32767 (int16)"),
        ("f4", [0, 1.5], "samples are 0..1.5, cut at 0..1 (float32)"),
        ("f4", [0, 0.01], "samples are 0..0.01, less than a tenth of 0..1 (float32)"),
    ],
)
def test_a_range_that_does_not_suit_the_samples_gives_a_warning(
    dtype: str, values: list[float], warning: str
) -> None:
    _, given = shown(values, dtype)
    assert given is not None
    assert given.startswith(warning)
    assert "--range LOW HIGH" in given


def test_a_tenth_of_the_range_gives_no_warning() -> None:
    assert shown([0, 6554], "u2")[1] is None
    assert shown([0, 6553], "u2")[1] is not None


def test_dark_images_of_8_bits_stay_dark_whatever_the_range() -> None:
    rules = SampleRules(range=(0, 40))
    assert shown([0, 40], "u1", rules=rules) == ([0, 40], None)


def test_the_flag_comes_before_what_the_file_declares() -> None:
    declared = Declared(0, 4095, "MaxSampleValue")
    assert shown([0, 2000, 4095], "u2", declared=declared) == ([0, 125, 255], None)
    rules = SampleRules(range=(1000, 2000))
    assert shown([0, 1500, 4095], "u2", declared=declared, rules=rules) == ([0, 128, 255], None)


def test_a_flag_that_shows_nothing_gives_a_warning() -> None:
    for limits in ((0, 255), (40000, 50000)):
        _, warning = shown([29315, 30815], "u2", rules=SampleRules(range=limits))
        assert warning is not None
        assert warning.startswith("all samples (29315..30815) are outside --range")


def test_a_declared_range_that_is_false_is_ignored_with_a_warning() -> None:
    pixels, warning = shown([0, 65535], "u2", declared=Declared(0, 4095, "MaxSampleValue"))
    assert pixels == [0, 255]
    assert warning == "MaxSampleValue 0..4095 ignored: samples are 0..65535"


def test_two_float_images_are_scaled_alike_although_one_passes_1() -> None:
    first, second = shown([0.2, 0.999], "f4")[0], shown([0.2, 1.001], "f4")[0]
    assert first == second == [51, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_undecodable(value: float) -> None:
    with pytest.raises(ImageError, match="1 of 3 samples are not finite"):
        shown([0, value, 1], "f4")
    with pytest.raises(ImageError, match="not finite"):
        shown([0, value, 1], "f4", rules=SampleRules(range=(0, 1)))


def test_large_images_are_scaled_like_small_ones() -> None:
    """Integers of 16 bits are looked up in a table where that is faster."""
    for dtype in ("u2", "i2"):
        limits = np.iinfo(dtype)
        samples = np.arange(limits.min, limits.max + 1, dtype=np.int64).astype(dtype)
        large = scaled(np.stack([samples] * 3), -100, 9000)
        small = scaled(samples[:, None], -100, 9000)
        assert (large == small[:, 0]).all()


def test_whole_16_bits_are_rounded_exactly() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = (2 * every.astype(np.int64) * 255 + 65535) // (2 * 65535)  # halves cannot occur
    assert (scaled(every, 0, 65535) == expected).all()


def test_declared_bits_tell_samples_at_the_bottom_from_those_at_the_top() -> None:
    """The PNG standard puts them at the top, microscopes at the bottom."""
    bottom = np.array([[0, 100, 4095]], np.uint16)
    assert declared_bits(bottom, 12, "sBIT") == Declared(0, 4095, "sBIT 12 bits")
    assert declared_bits(bottom << 4, 12, "sBIT") is None
    dark_at_the_top = np.array([[0, 16, 240]], np.uint16)
    assert declared_bits(dark_at_the_top, 12, "sBIT") is None
    for bits in (0, 5, 16, 200):
        assert declared_bits(bottom, bits, "sBIT") is None


def test_bands_are_picked_in_the_order_of_the_flag() -> None:
    pixels = np.array([[[1, 2, 3]]], np.uint8)
    assert pick_bands(pixels, (3, 1, 1), 3).tolist() == [[[3, 1, 1]]]
    assert pick_bands(pixels, None, 3) is pixels
    with pytest.raises(ImageError, match="--bands 4 3 2: the image has 3 bands"):
        pick_bands(pixels, (4, 3, 2), 3)


def test_rules_survive_the_checkpoint() -> None:
    rules = SampleRules(range=(0.5, 4095), bands=(4, 3, 2))
    described = rules.described()
    assert described == {"sample_range": [0.5, 4095], "bands": [4, 3, 2]}
    assert SampleRules.of_checkpoint({"preprocessing": described}) == rules
    assert SampleRules().described() == {}
    assert SampleRules.of_checkpoint({"preprocessing": {"range": 1.0}}) == SampleRules()
    replaced = rules.replaced((0, 1), None)
    assert replaced == SampleRules(range=(0, 1), bands=(4, 3, 2))
    for stored in ({"sample_range": [1]}, {"bands": "abc"}, {"sample_range": [5, 1]}):
        with pytest.raises(ValueError, match="range|bands"):
            SampleRules.of_checkpoint({"preprocessing": stored})
