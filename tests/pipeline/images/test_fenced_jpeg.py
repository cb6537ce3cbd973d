"""JPEGs that lack their end, are damaged, or are of a rare kind."""

from __future__ import annotations

from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from pipeline.images import LACKS_END, decode, read_size
from pipeline.images.fenced_jpeg import Decoded, _share_there, decode_jpeg
from pipeline.images.guard import ImageError
from tests.pipeline.hostile_bytes import encode, patched, photo, with_segments
from tests.pipeline.odd_formats import exif_of_kind, sample

PHOTO = photo(240, 320)
JPEG = encode(PHOTO, quality=90)
KINDS = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0},
    "restart markers": {"restart_marker_rows": 1},
    "optimised": {"optimize": True},
    "gray": {},
    "CMYK": {},
    "progressive": {"progressive": True},
}


def jpeg(kind: str) -> bytes:
    mode = {"gray": "L", "CMYK": "CMYK"}.get(kind, "RGB")
    return encode(PHOTO.convert(mode), quality=90, **KINDS[kind])  # type: ignore[arg-type]


def first_wrong_row(cut: bytes, whole: bytes) -> int:
    differs = (decode(cut).pixels != decode(whole).pixels).any(axis=(1, 2))
    return int(differs.argmax()) if differs.any() else len(differs)


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_end_marker_a_jpeg_has_all_its_pixels_and_a_warning(kind: str) -> None:
    whole = jpeg(kind)
    for lacking in (1, 2):
        image = decode(whole[:-lacking])
        assert image.warning == f"{LACKS_END}: all of its rows are there"
        np.testing.assert_array_equal(image.pixels, decode(whole).pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_bytes_less_leave_nearly_all_rows(kind: str) -> None:
    whole = jpeg(kind)
    cut = whole[:-40]
    image = decode(cut)
    assert image.warning is not None
    assert image.warning.startswith(f"{LACKS_END}: 9")
    assert (
        first_wrong_row(cut, whole) >= 240 - 17
    )  # a row of blocks, and one row of enlarged colours


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_with_fewer_than_95_percent_of_its_rows_it_is_undecodable(kind: str, share: float) -> None:
    whole = jpeg(kind)
    with pytest.raises(ImageError, match=f"^{LACKS_END}: ") as caught:
        decode(whole[: int(len(whole) * share)])
    assert caught.value.status == "undecodable"


def test_the_limit_lies_at_95_percent_of_the_rows() -> None:
    """A restart marker begins each row of blocks, so the cut is known to the row: 30 rows of 8 pixels."""
    data = encode(PHOTO, quality=90, subsampling=0, restart_marker_rows=1)
    rows = [n for n in range(len(data) - 1) if data[n] == 0xFF and 0xD0 <= data[n + 1] <= 0xD7]
    assert len(rows) == 29
    assert "96.6% of its rows" in str(decode(data[: rows[28]]).warning)  # 29 of 30
    with pytest.raises(ImageError, match="93.3% of its rows are there, less than 95%"):
        decode(data[: rows[27]])


def test_refuse_refuses_what_lacks_its_end() -> None:
    with pytest.raises(
        ImageError, match=r"all of its rows are there \(--truncated refuse\)"
    ) as caught:
        decode(JPEG[:-2], truncated="refuse")
    assert caught.value.status == "undecodable"
    assert decode(JPEG, truncated="refuse").warning is None
    png = encode(PHOTO, "PNG")
    assert decode(png, truncated="refuse").warning is None


def test_zeros_in_the_place_of_the_end_are_missing_data() -> None:
    """Downloads and disks reserve the space of a file before its content arrives."""
    filled = JPEG[:-40] + bytes(40)
    assert str(decode(filled).warning).startswith(f"{LACKS_END}: 9")
    with pytest.raises(ImageError, match=LACKS_END):
        decode(JPEG[: len(JPEG) // 2] + bytes(len(JPEG) // 2))


def test_an_end_marker_behind_half_of_the_data_does_not_make_it_whole() -> None:
    with pytest.raises(ImageError, match=LACKS_END):
        decode(JPEG[: len(JPEG) // 2] + b"\xff\xd9")


def test_whole_scans_that_are_missing_leave_no_complete_row() -> None:
    progressive, several = encode(PHOTO, progressive=True), sample("three_scans.jpg")
    for data in (progressive, several):
        last = data.rindex(b"\xff\xda")
        with pytest.raises(ImageError, match="whole scans are missing"):
            decode(data[:last])
    image = decode(progressive[: progressive.rindex(b"\xff\xda")] + b"\xff\xd9")
    assert image.warning == "less sharp than it was: its scans end before the full detail"


def test_the_orientation_of_a_cut_jpeg_is_applied() -> None:
    turned = with_segments(JPEG, exif_of_kind(6, 1))[:-2]
    assert decode(turned).pixels.shape == (320, 240, 3)


@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_damage_inside_is_never_silent(at: float) -> None:
    middle = int(len(JPEG) * at)
    damaged = patched(JPEG, middle, bytes(range(1, 200)))
    try:
        said = str(decode(damaged).warning)
    except ImageError as error:
        said = error.message
    assert said.startswith(("damaged: ", LACKS_END))


def test_damage_before_a_restart_marker_leaves_the_file_whole() -> None:
    """Data are missing inside, but its end is there."""
    data = encode(PHOTO, quality=90, subsampling=0, restart_marker_rows=1)
    first, second = data.index(b"\xff\xd0"), data.index(b"\xff\xd1")
    image = decode(data[: first + 2] + data[second - 40 :])
    assert str(image.warning).startswith("damaged: ")


def test_a_share_is_counted_by_blocks() -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    other = image.copy()
    assert _share_there(image, other, (16, 16)) == 1
    other[16:, 32:] = 1  # the second row of blocks, from its third block
    assert _share_there(image, other, (16, 16)) == (16 * 64 + 32 * 16) / (32 * 64)
    other[15, 31:] = 1  # enlarged colours reach into the blocks above and to the left
    other[16:, 31] = 1
    assert _share_there(image, other, (16, 16)) == 0.75
    other[:] = 1
    assert _share_there(image, other, (16, 16)) == 0


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_rare_kinds_have_the_pixels_that_pillow_gives(mode: str) -> None:
    data = encode(photo(97, 131, mode), quality=90)
    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data, fenced=True).pixels, expected)


def test_a_kind_that_is_not_supported_is_named() -> None:
    lossless = bytes(imagecodecs.jpeg8_encode(np.asarray(PHOTO), lossless=True))
    at = lossless.index(b"\xff\xc3") + 4
    two = patched(lossless, at + 5, b"\x02")
    with pytest.raises(ImageError, match="a JPEG of 8 bits, lossless with 2 components"):
        decode(two)
    frame = JPEG.index(b"\xff\xc0")
    with pytest.raises(ImageError, match="a JPEG of the kind SOF5"):
        decode(patched(JPEG, frame + 1, b"\xc5"))
    with pytest.raises(ImageError, match="no size"):
        decode(patched(JPEG, frame + 5, b"\0\0"))


def rare(bits: int, lossless: bool, colours: bool) -> bytes:
    """Make noise of 160 x 96 pixels."""
    shape = (160, 96, 3) if colours else (160, 96)
    kind = np.uint8 if bits == 8 else np.uint16
    noise = np.random.default_rng(bits).integers(0, 1 << bits, shape).astype(kind)
    options = {"subsampling": "444"} if colours else {}
    return bytes(
        imagecodecs.jpeg8_encode(noise, 90, bitspersample=bits, lossless=lossless, **options)
    )


RARE = [
    (12, False, False),
    (12, False, True),
    (8, True, False),
    (12, True, True),
    (16, True, False),
]


@pytest.mark.parametrize(("bits", "lossless", "colours"), RARE)
def test_a_rare_jpeg_without_its_end_is_never_used_in_silence(
    bits: int, lossless: bool, colours: bool
) -> None:
    """The library for these fills up what is missing without a word."""
    whole = rare(bits, lossless, colours)
    pixels = decode(whole).pixels
    for fifths in range(1, 5):
        for end in (b"",) if lossless else (b"", b"\xff\xd9"):
            with pytest.raises(ImageError, match=f"^{LACKS_END}: [0-9.]+% of its rows") as caught:
                decode(whole[: len(whole) * fifths // 5] + end)
            assert caught.value.status == "undecodable"
    image = decode(whole[:-2])
    assert image.warning == f"{LACKS_END}: all of its rows are there"
    np.testing.assert_array_equal(image.pixels, pixels)
    image = decode(whole[: len(whole) * 98 // 100])
    assert image.warning is not None
    assert image.warning.startswith(f"{LACKS_END}: 9")
    np.testing.assert_array_equal(image.pixels[:144], pixels[:144])
    with pytest.raises(ImageError, match="--truncated refuse"):
        decode(whole[:-2], truncated="refuse")


@pytest.mark.parametrize(("bits", "lossless", "colours"), RARE)
def test_the_size_of_a_rare_jpeg_is_read(bits: int, lossless: bool, colours: bool) -> None:
    """Pillow does not open them."""
    data = rare(bits, lossless, colours)
    assert read_size(data) == (160, 96)
    assert read_size(with_segments(data, exif_of_kind(6, 3))) == (96, 160)


def test_a_sound_jpeg_of_12_bits_is_decoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time with other bytes after its data, which shows that none of them are missing."""
    samples = np.random.default_rng(0).integers(0, 4096, (40, 48, 3), dtype=np.uint16)
    data = imagecodecs.jpeg8_encode(samples, level=95, bitspersample=12)
    real, calls = imagecodecs.jpeg8_decode, []

    def counted(part: bytes) -> np.ndarray:
        calls.append(len(part))
        decoded: np.ndarray = real(part)
        return decoded

    monkeypatch.setattr(imagecodecs, "jpeg8_decode", counted)
    decoded = decode_jpeg(data, 10_000)
    assert isinstance(decoded, Decoded)
    assert not decoded.lacks_end
    assert len(calls) == 2
