"""Which picture of a TIFF is decoded, which bands, and the words for what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.images import ImageError, SampleRules, decode, read_size
from tests.pipeline.tiff_bytes import ALPHA, MULTIPLIED, RGB, WHITE_IS_ZERO, Page, write_tiff

ROW = np.arange(0, 250, 10, dtype=np.uint8)  # 25 samples
GRAY = np.tile(ROW, (16, 1))
COLOURS = np.dstack([GRAY, GRAY[:, ::-1], np.full_like(GRAY, 77)])
SMALL = COLOURS[::4, ::4]
REDUCED: dict[int, tuple[int, list[Any]]] = {254: (4, [1])}


def error_of(data: bytes, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    assert caught.value.status == "undecodable"
    return str(caught.value)


# --- which picture --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pages",
    [
        (Page(samples=SMALL, tags=REDUCED, inside=(Page(samples=COLOURS),)),),
        (Page(samples=SMALL, tags=REDUCED), Page(samples=COLOURS)),
        (Page(samples=SMALL, tags={255: (3, [2])}), Page(samples=COLOURS)),
        (Page(samples=SMALL, inside=(Page(samples=COLOURS),)),),
        (Page(samples=COLOURS, inside=(Page(samples=SMALL, tags=REDUCED),)),),
        (Page(samples=COLOURS), Page(samples=SMALL, tags=REDUCED)),
        (Page(samples=COLOURS), Page(samples=GRAY, photometric=4, tags={254: (4, [4])})),
        (
            Page(samples=SMALL, tags=REDUCED, inside=(Page(samples=SMALL, tags=REDUCED),)),
            Page(samples=COLOURS),
        ),
    ],
    ids=[
        *("in a SubIFD", "on a later page", "old tag", "larger SubIFD without a tag"),
        *("pyramid in SubIFDs", "pyramid on pages", "with a mask", "two thumbnails"),
    ],
)
@pytest.mark.parametrize("big", [False, True])
def test_the_full_picture_is_decoded_in_silence(pages: tuple[Page, ...], big: bool) -> None:
    data = write_tiff(*pages, big=big)
    decoded = decode(data)
    np.testing.assert_array_equal(decoded.pixels, COLOURS)
    assert decoded.warning is None
    assert read_size(data) == COLOURS.shape[:2]


def test_a_thumbnail_alone_is_decoded_with_a_warning() -> None:
    decoded = decode(write_tiff(Page(samples=SMALL, tags=REDUCED)))
    assert decoded.warning == "the file tags it as a reduced picture, and holds no full one"


def test_full_pages_are_counted_without_thumbnails() -> None:
    full, thumbnail = Page(samples=COLOURS), Page(samples=SMALL, tags=REDUCED)
    assert decode(write_tiff(full, thumbnail, full)).warning == "first frame of 2"


def test_max_pixels_is_checked_for_the_picture_that_is_decoded() -> None:
    data = write_tiff(Page(samples=SMALL, tags=REDUCED, inside=(Page(samples=COLOURS),)))
    for call in (decode, read_size):
        with pytest.raises(ImageError, match="25 x 16 is more than 399 pixels"):
            call(data, max_pixels=399)


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_the_size_is_that_of_the_upright_image(orientation: int) -> None:
    page = Page(samples=COLOURS.astype(np.uint16) * 257, tags={274: (3, [orientation])})
    data = write_tiff(page)
    assert read_size(data) == decode(data).pixels.shape[:2]


# --- ranges ---------------------------------------------------------------------------------------------

TWELVE = GRAY.astype(np.uint16) * 16 + 15  # 15 .. 3855


@pytest.mark.parametrize(
    "page",
    [
        Page(samples=TWELVE, bits=12),
        Page(samples=TWELVE, tags={281: (3, [4095])}),
        Page(samples=TWELVE, tags={341: (3, [4095])}),
        Page(samples=TWELVE.astype(np.int16), tags={340: (8, [0]), 341: (8, [4095])}),
        Page(samples=TWELVE.astype(np.int16) - 2048, tags={341: (8, [2047])}),
        Page(samples=TWELVE + 29000, tags={280: (3, [29000]), 281: (3, [33095])}),
        Page(samples=TWELVE.astype(np.uint32), tags={281: (4, [4095])}),
    ],
)
def test_a_declared_range_is_used_in_silence(page: Page) -> None:
    decoded = decode(write_tiff(page))
    assert decoded.warning is None
    assert decoded.pixels[0, :, 0].tolist() == [round(v * 255 / 4095) for v in TWELVE[0].tolist()]


def test_8_bit_samples_are_not_stretched_by_a_declared_range() -> None:
    decoded = decode(write_tiff(Page(samples=GRAY // 6, tags={281: (3, [41])})))
    assert decoded.pixels.max() == 40
    assert decoded.warning is None


def test_the_range_flag_scales_deep_samples_and_leaves_bytes_alone() -> None:
    rules = SampleRules(range=(15, 3855))
    deep = decode(write_tiff(Page(samples=TWELVE)), rules=rules)
    assert (deep.pixels.min(), deep.pixels.max(), deep.warning) == (0, 255, None)
    flat = decode(write_tiff(Page(samples=GRAY)), rules=rules)
    np.testing.assert_array_equal(flat.pixels[:, :, 0], GRAY)


def test_white_is_zero_is_turned_after_the_range() -> None:
    page = Page(samples=TWELVE, photometric=WHITE_IS_ZERO)
    pixels = decode(write_tiff(page), rules=SampleRules(range=(15, 3855))).pixels
    assert (pixels[0, 0, 0], pixels[0, -1, 0]) == (255, 0)


# --- bands ----------------------------------------------------------------------------------------------

FIVE = np.dstack([GRAY, GRAY + 1, GRAY + 2, GRAY + 3, GRAY + 4])


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("photometric", [1, RGB])
def test_bands_are_chosen_by_the_flag(planar: bool, photometric: int) -> None:
    page = Page(samples=FIVE, photometric=photometric, planar=planar)
    decoded = decode(write_tiff(page), rules=SampleRules(bands=(5, 2, 2)))
    np.testing.assert_array_equal(decoded.pixels, FIVE[:, :, [4, 1, 1]])
    assert decoded.warning is None


def test_the_flag_chooses_bands_of_other_files_too() -> None:
    rules = SampleRules(bands=(3, 2, 1))
    for page in (Page(samples=COLOURS), Page(samples=COLOURS, compression=1, tile=16)):
        pixels = decode(write_tiff(page), rules=rules).pixels
        np.testing.assert_array_equal(pixels, COLOURS[:, :, ::-1])


def test_a_band_that_the_image_lacks_is_named() -> None:
    rules = SampleRules(bands=(6, 2, 1))
    assert error_of(write_tiff(Page(samples=FIVE)), rules=rules) == (
        "--bands 6 2 1: the image has 5 bands"
    )
    gray = write_tiff(Page(samples=GRAY))
    assert error_of(gray, rules=rules) == "--bands 6 2 1: the image has 1 band"


@pytest.mark.parametrize(
    ("page", "shown", "warning"),
    [
        (Page(samples=FIVE[:, :, :2]), [0, 0, 0], "band 1 of 2 taken"),
        (Page(samples=FIVE[:, :, :3], photometric=1), [0, 1, 2], "bands 1 2 3 of 3 taken as RGB"),
        (Page(samples=FIVE[:, :, :4], extra=(0, 0, 0)), [0, 1, 2], "bands 1 2 3 of 4 taken as RGB"),
        (Page(samples=FIVE[:, :, :4], extra=(0,)), [0, 1, 2], "bands 1 to 3 of 4 taken"),
        (Page(samples=FIVE[:, :, :4], photometric=RGB), [0, 1, 2], "bands 1 to 3 of 4 taken"),
        (Page(samples=FIVE, extra=(0, 0)), [0, 1, 2], "bands 1 to 3 of 5 taken"),
    ],
)
def test_bands_without_a_meaning_give_the_first_ones_and_a_warning(
    page: Page, shown: list[int], warning: str
) -> None:
    decoded = decode(write_tiff(page))
    np.testing.assert_array_equal(decoded.pixels, FIVE[:, :, shown])
    assert (decoded.warning or "").startswith(warning)
    assert "--bands R G B" in (decoded.warning or "")


HALF = np.where(np.arange(25) < 13, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_alpha_that_keeps_the_picture_is_used(dtype: str) -> None:
    soft = np.tile(HALF, (16, 1))
    soft[:, 12] = 51
    scale = 257 if dtype == "u2" else 1
    samples = np.dstack([COLOURS, soft]).astype(dtype) * scale
    decoded = decode(write_tiff(Page(samples=samples, extra=(ALPHA,))))
    assert decoded.warning is None
    np.testing.assert_array_equal(decoded.pixels[:, :12], COLOURS[:, :12])
    assert (decoded.pixels[:, 13:] == 255).all()
    # 120 * .2 + 255 * .8 = 228
    assert decoded.pixels[0, 12].tolist() == [228, 228, 219]


@pytest.mark.parametrize(
    ("band", "cause"),
    [
        (255 - GRAY, "384 pixels partly transparent and 16 opaque"),
        (np.zeros_like(GRAY), "0 pixels partly transparent and 0 opaque"),
        (
            np.where(GRAY < 100, 0, GRAY).astype(np.uint8),
            "240 pixels partly transparent and 0 opaque",
        ),
        (np.full_like(GRAY, 128), "400 pixels partly transparent and 0 opaque"),
    ],
    ids=["near infrared", "all 0", "near infrared with a border", "half"],
)
@pytest.mark.parametrize("kind", [ALPHA, MULTIPLIED])
def test_a_band_that_would_hide_the_picture_is_not_alpha(
    band: np.ndarray, cause: str, kind: int
) -> None:
    decoded = decode(write_tiff(Page(samples=np.dstack([COLOURS, band]), extra=(kind,))))
    np.testing.assert_array_equal(decoded.pixels, COLOURS)
    assert decoded.warning == f"band 4 is tagged as alpha but not used as such: {cause}"


# --- what cannot be decoded -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "cause"),
    [
        ({259: (3, [34661])}, "TIFF compression 34661 (JBIG): not supported"),
        ({259: (3, [12345])}, "TIFF compression 12345: not supported"),
        ({262: (3, [32803])}, "a raw picture of a camera: not supported"),
        ({339: (3, [6])}, "complex numbers as samples: not supported"),
        ({32997: (4, [3])}, "a volume of 3 slices: not supported"),
        ({258: (3, [128]), 339: (3, [3])}, "float samples of 128 bits: not supported"),
    ],
)
def test_a_kind_that_no_library_reads_is_named(
    tags: dict[int, tuple[int, list[Any]]], cause: str
) -> None:
    assert error_of(write_tiff(Page(samples=TWELVE, tags=tags))) == cause


def test_a_tiff_that_is_cut_short_says_so() -> None:
    data = write_tiff(Page(samples=TWELVE, rows_per_strip=4))
    assert "cut short" in error_of(data[: len(data) // 2])
    elsewhere = write_tiff(Page(samples=TWELVE, tags={273: (4, [10**6])}))
    assert error_of(elsewhere) == "the file is cut short: a strip or tile lies past its end"


def test_tiles_that_a_sparse_file_leaves_out_are_black_and_counted() -> None:
    page = Page(samples=TWELVE * 16, tile=16, pack=lambda data, _: data if data[30] else b"")
    decoded = decode(write_tiff(page))
    assert decoded.warning == "1 of 2 strips or tiles are empty"
    empty = Page(samples=TWELVE, tile=16, pack=lambda data, _: b"")
    assert error_of(write_tiff(empty)) == "all its strips or tiles are empty"


@pytest.mark.parametrize("order", ["<", ">"])
def test_integers_of_24_bits_are_refused_by_name(order: str) -> None:
    """tifffile reads their bytes in the wrong order."""
    page = Page(samples=np.zeros((16, 24), np.uint8), tags={256: (4, [8]), 258: (3, [24])})
    assert error_of(write_tiff(page, order=order)) == "unsigned samples of 24 bits: not supported"
