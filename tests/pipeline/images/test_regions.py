"""Parts of an image that are decoded alone: equal to the parts of the whole image, in bounded memory."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from torch.nn import functional as F

from pipeline import storage
from pipeline.errors import ObjectChanged
from pipeline.images import ImageError, SampleRules, decode
from pipeline.images.fence import Fence
from pipeline.images.regions import RegionImage, StoredBytes, has_parts, open_regions
from pipeline.runtime.child_process import DiedError

SIZE = (150, 230)
KINDS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (48, 64)},
    "strips": {"rowsperstrip": 16},
    "jpeg tiles": {"tile": (48, 64), "compression": "jpeg"},
    "jpeg strips": {"rowsperstrip": 32, "compression": "jpeg"},
    "jpeg of RGB": {
        "tile": (64, 64),
        "compression": "jpeg",
        "compressionargs": {"outcolorspace": "rgb"},
    },
    "deflate": {"tile": (32, 32), "compression": "deflate", "predictor": True},
    "lzw": {"rowsperstrip": 7, "compression": "lzw"},
    "zstd": {"tile": (64, 128), "compression": "zstd"},
    "jpeg 2000": {"tile": (64, 64), "compression": "jpeg2000"},
    "big": {"tile": (64, 64), "bigtiff": True, "byteorder": ">"},
}


def picture(height: int, width: int, bands: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw waves with noise, so that JPEG has something to do."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + k)) + np.cos(y / (13 + k)) for k in range(bands)]
    noise = np.random.default_rng(0).normal(0, 0.2, (height, width, bands))
    return np.clip(128 + 55 * (np.stack(waves, -1) + noise), 0, 255).astype(np.uint8)


def write_900_megapixels(path: Path) -> None:
    """Write a TIFF of 30,000 x 30,000 pixels in tiles of JPEG. It has some hundred MB."""
    some = [picture(512, 512) for _ in range(4)]
    tifffile.imwrite(
        path, (some[n % 4] for n in range(59 * 59)), shape=(30_000, 30_000, 3), dtype="u1",
        tile=(512, 512), compression="jpeg", compressionargs={"level": 70}, photometric="rgb",
        metadata=None, bigtiff=True,
    )  # fmt: skip
    assert 64_000_000 < path.stat().st_size < 400_000_000


def tiff(pixels: Any = None, orientation: int = 1, **how: Any) -> bytes:
    pixels = picture(*SIZE) if pixels is None else pixels
    sink = io.BytesIO()
    how = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack"} | how
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(sink, pixels, metadata=None, extratags=tags, **how)
    return sink.getvalue()


def resized_whole(pixels: Any, size: tuple[int, int]) -> Any:
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    resized = F.interpolate(whole, size=size, mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()


def check_equal(data: bytes, max_pixels: int = 10_000, **rules: Any) -> None:
    """Check windows and the resized image against the image that is decoded whole."""
    whole = decode(data, rules=SampleRules(**rules))
    height, width = whole.pixels.shape[:2]
    assert has_parts(data, max_pixels)
    with open_regions(data, max_pixels=max_pixels, rules=SampleRules(**rules)) as image:
        assert image.size == (height, width)
        assert image.warning == whole.warning
        windows = [(0, 0, 70, 70), (33, 17, 34, 18), (width - 60, height - 90, width, height)]
        for x1, y1, x2, y2 in [*windows, (0, 0, width, height), windows[0]]:
            assert np.array_equal(image.read((x1, y1, x2, y2)), whole.pixels[y1:y2, x1:x2])
        for size in ((37, 41), (height, width), (height // 2, 2 * width), (1, 1)):
            expected = resized_whole(whole.pixels, size)
            np.testing.assert_allclose(image.resized(size), expected, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_equal_to_those_of_the_whole_image(kind: str) -> None:
    check_equal(tiff(**KINDS[kind]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg tiles", "strips"])
def test_parts_are_upright(kind: str, orientation: int) -> None:
    check_equal(tiff(orientation=orientation, **KINDS[kind]))


def test_gray_white_is_zero_and_chosen_bands() -> None:
    gray = picture(*SIZE, 1)[:, :, 0]
    check_equal(tiff(gray, **KINDS["jpeg tiles"]))
    check_equal(tiff(gray, **KINDS["tiles"] | {"photometric": "miniswhite"}))
    check_equal(tiff(**KINDS["tiles"]), bands=(3, 1, 2))


def test_empty_tiles_of_a_sparse_file_are_black_with_the_same_warning() -> None:
    tiles: list[Any] = [None if n % 3 == 1 else picture(64, 64) for n in range(12)]
    sink = io.BytesIO()
    tifffile.imwrite(
        sink, iter(tiles), shape=(*SIZE, 3), dtype="u1", tile=(64, 64), photometric="rgb",
        metadata=None,
    )  # fmt: skip
    assert "of 12 strips or tiles are empty" in str(decode(sink.getvalue()).warning)
    check_equal(sink.getvalue())


@pytest.mark.parametrize(
    "how",
    [
        {"pixels": picture(*SIZE).astype(np.uint16), "tile": (48, 64)},
        {"rowsperstrip": 150},  # one strip, which has more pixels than may be decoded at once
        {"pixels": picture(*SIZE, 4), "tile": (48, 64), "extrasamples": ["unassalpha"]},
        {"tile": (48, 64), "planarconfig": "separate", "pixels": picture(*SIZE).transpose(2, 0, 1)},
    ],
)
def test_what_must_be_decoded_whole_has_no_parts(how: dict[str, Any]) -> None:
    data = tiff(**how)
    assert not has_parts(data, 10_000)
    with pytest.raises(ImageError, match="no parts of it are decoded") as raised:
        with open_regions(data, max_pixels=10_000):
            pass
    assert raised.value.status == "too_large"
    with pytest.raises(ImageError, match="230 x 150 is more than 10000 pixels"):
        decode(data, max_pixels=10_000)


def test_an_image_that_may_be_decoded_whole_has_no_parts_unless_asked() -> None:
    data = tiff(**KINDS["tiles"])
    assert not has_parts(data, SIZE[0] * SIZE[1])
    assert has_parts(data, SIZE[0] * SIZE[1], only_larger=False)
    assert not has_parts(b"no image", 1)
    assert not has_parts(data[:100], 10_000)  # its directory is cut off


def test_more_than_ten_times_the_pixels_are_refused() -> None:
    data = tiff(tile=(16, 16))
    with pytest.raises(ImageError, match="230 x 150 is more than 3000 pixels") as raised:
        with open_regions(data, max_pixels=300):
            pass
    assert raised.value.status == "too_large"


def test_a_damaged_tile_is_found_when_it_is_decoded() -> None:
    data = bytearray(tiff(**KINDS["jpeg tiles"]))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        offset, count = page.dataoffsets[-1], page.databytecounts[-1]
    data[offset : offset + count] = bytes(count)
    with open_regions(bytes(data), max_pixels=10_000) as image:
        assert image.read((0, 0, 64, 48)).shape == (48, 64, 3)
        with pytest.raises(ImageError) as raised:
            image.read((200, 140, 230, 150))
        assert raised.value.status == "undecodable"
        with pytest.raises(ImageError):
            image.resized((20, 30))
        assert image.read((0, 0, 64, 48)).shape == (48, 64, 3)  # the process lives on


def large(path: Path) -> bytes:
    """Write a TIFF of 4,096 x 4,096 px (50 MB decoded) in tiles of 256 px."""
    tifffile.imwrite(
        path, (picture(256, 256) for _ in range(256)), shape=(4096, 4096, 3), dtype="u1",
        tile=(256, 256), compression="jpeg", photometric="rgb", metadata=None,
    )  # fmt: skip
    return path.read_bytes()


def test_the_memory_of_the_process_does_not_grow_with_the_image(tmp_path: Path) -> None:
    data, pool = large(tmp_path / "a.tif"), Fence()
    with open_regions(data, max_pixels=2_000_000, pool=pool) as image:
        image.read((0, 0, 256, 256))
        _, at_first = image.read((0, 0, 10, 10)), image._child.peak_bytes
        image.resized((480, 480))
        for y in range(0, 4096, 512):
            for x in range(0, 4096, 512):
                image.read((x, y, x + 512, y + 512))
        grown = image._child.peak_bytes - at_first
    pool.close()
    # The cache has 6 MB, a resized image and its taps 25 MB.
    assert grown < 35 * 2**20, f"{grown / 2**20:.0f} MB, but the decoded image has 50"


def test_only_the_bytes_of_the_parts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    size = len(large(path))
    info = storage.stat(str(path))
    stored = StoredBytes(str(path), size, info.etag, block_bytes=2**14)
    read = 0

    def counted(*args: Any, **kwargs: Any) -> bytes:
        nonlocal read
        read += kwargs["length"]
        return storage_read(*args, **kwargs)

    storage_read = storage.read_range
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "read_range", counted)
        with open_regions(stored, max_pixels=2_000_000) as image:
            window = image.read((1000, 1000, 1256, 1256))
    assert read < size / 10
    assert np.array_equal(window, decode(path.read_bytes()).pixels[1000:1256, 1000:1256])


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(**KINDS["tiles"]))
    info = storage.stat(str(path))
    stored = StoredBytes(str(path), info.size or 0, info.etag, block_bytes=4096)
    with open_regions(stored, max_pixels=10_000) as image:
        os.utime(path, ns=(1, 1))
        with pytest.raises(ObjectChanged):
            image.read((100, 100, 200, 150))


@pytest.mark.parametrize("need", [[0, 10**9], [-1, 5], ["a", 1], 7, [5], [10**6, 1]])
def test_a_process_that_asks_for_other_bytes_is_not_answered(need: object) -> None:
    image = object.__new__(RegionImage)
    image._data = bytes(100)
    with pytest.raises(DiedError, match="asked for bytes that the file does not have"):
        image._needed(need)


def test_stored_bytes_are_those_of_the_object(bucket: str, s3_client: Any) -> None:
    content = np.random.default_rng(0).bytes(10_000)
    s3_client.put_object(Bucket=bucket.removeprefix("s3://"), Key="a.bin", Body=content)
    info = storage.stat(f"{bucket}/a.bin")
    make: Callable[..., StoredBytes] = partial(StoredBytes, info.uri, 10_000)
    stored = make(info.etag, block_bytes=700)
    for part in (slice(0, 64), slice(699, 1401), slice(9_990, 20_000), slice(5, 5), slice(None)):
        assert stored[part] == content[part]
    with pytest.raises(ObjectChanged):
        make("other")[0:10]
