"""LZW goes through libtiff, which takes half the time; all other strips and tiles through tifffile."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from pipeline.images import tiff_segments
from pipeline.images.guard import ImageError
from pipeline.images.samples import NEUTRAL, SampleRules
from pipeline.images.tiff import decode_tiff

SHAPES = {1: (37, 45), 3: (37, 45, 3), 4: (37, 45, 4)}


def lzw(samples: npt.NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    bands = samples.shape[2] if samples.ndim == 3 else 1
    photometric = "rgb" if bands > 1 else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if bands == 4 else {}
    tifffile.imwrite(file, samples, compression="lzw", photometric=photometric, **extra, **options)
    return file.getvalue()


def noise(bands: int, dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
    generator = np.random.default_rng(bands)
    samples = generator.integers(0, np.iinfo(dtype).max, SHAPES[bands]).astype(dtype)
    if bands == 4:
        samples[:, :, 3] = np.iinfo(dtype).max
    return samples


@pytest.mark.parametrize("bands", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "options",
    [{}, {"byteorder": ">"}, {"predictor": 2}, {"tile": (16, 32)}, {"bigtiff": True}],
    ids=str,
)
def test_lzw_gives_the_stored_samples_by_both_ways(
    bands: int,
    dtype: type[np.integer[Any]],
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = noise(bands, dtype)
    data = lzw(samples, **options)
    pixels, _ = decode_tiff(data, 10**6, NEUTRAL)
    colours = samples.reshape(*samples.shape[:2], -1)[:, :, :3]
    top = np.iinfo(dtype).max
    expected = np.rint(colours.astype(np.float64) * 255 / top)
    assert np.array_equal(pixels, np.broadcast_to(expected, pixels.shape))
    monkeypatch.setattr(tiff_segments, "_faster_in_libtiff", lambda directory: False)
    assert np.array_equal(decode_tiff(data, 10**6, NEUTRAL)[0], pixels)


def test_chosen_bands_of_lzw_come_in_the_order_of_the_flag() -> None:
    samples = noise(4, np.uint16)
    pixels, _ = decode_tiff(lzw(samples), 10**6, SampleRules(bands=(4, 3, 1)))
    expected = np.rint(samples[:, :, [3, 2, 0]].astype(np.float64) * 255 / 65535)
    assert np.array_equal(pixels, expected)


def test_damaged_lzw_is_named() -> None:
    data = bytearray(lzw(noise(3, np.uint16)))
    with pytest.raises(ImageError, match="damaged or cut short"):
        decode_tiff(bytes(data[: len(data) // 2]), 10**6, NEUTRAL)
