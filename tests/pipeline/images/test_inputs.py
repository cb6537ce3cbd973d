from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.images import ImageError, decode
from pipeline.images.inputs import check_image, check_images, read_pixels
from pipeline.storage import ObjectMissing

RED_BLUE = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
"""(1, 2, 3): one row with a red and a blue pixel."""


def checked(image: Any) -> list[Any]:
    """Check an image and read its pixels, as lists."""
    check_image(image)
    pixels = read_pixels(image)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return pixels.tolist()


def test_files_are_decoded_from_a_path_a_uri_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RED_BLUE).save(path)
    for image in (str(path), path, f"file://{path}", path.read_bytes()):
        assert checked(image) == RED_BLUE.tolist()


def test_arrays_and_tensors_are_taken_without_change() -> None:
    assert checked(RED_BLUE) == RED_BLUE.tolist()
    assert checked(RED_BLUE[:, ::-1]) == [[[0, 0, 255], [255, 0, 0]]]  # not contiguous
    assert checked(np.array([[7, 9]], np.uint8)) == [[[7, 7, 7], [9, 9, 9]]]
    tensor = torch.tensor([[[255, 0]], [[0, 0]], [[0, 255]]], dtype=torch.uint8)  # (3, 1, 2)
    assert checked(tensor) == RED_BLUE.tolist()
    assert checked(np.zeros((3, 2, 3), np.uint8)) == [[[0, 0, 0]] * 2] * 3


def gray(mode: str, value: float) -> Image.Image:
    return Image.new(mode, (1, 1), value)


def palette() -> Image.Image:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (gray("L", 200), [200, 200, 200]),
        (gray("1", 1), [255, 255, 255]),
        (palette(), [10, 20, 30]),
        (Image.new("RGBA", (1, 1), (10, 20, 30, 255)), [10, 20, 30]),
        (Image.new("RGBA", (1, 1), (10, 20, 30, 0)), [255, 255, 255]),  # transparent: on white
        (Image.new("LA", (1, 1), (100, 0)), [255, 255, 255]),
        (Image.new("CMYK", (1, 1), (0, 0, 0, 255)), [0, 0, 0]),
        (gray("I;16", 65535), [255, 255, 255]),
        (gray("I;16", 257 * 7), [7, 7, 7]),
        (gray("I", 257 * 7), [7, 7, 7]),
        (gray("F", 0.4), [102, 102, 102]),
    ],
)
def test_pil_images_of_any_mode_become_rgb(image: Image.Image, pixel: list[int]) -> None:
    assert checked(image) == [[pixel]]


def test_the_orientation_of_a_pil_image_is_applied_as_for_its_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(RED_BLUE)
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        assert checked(opened) == [[[255, 0, 0]], [[0, 0, 255]]]  # turned to the right
    expected = decode((tmp_path / "a.png").read_bytes()).pixels
    assert expected.tolist() == [[[255, 0, 0]], [[0, 0, 255]]]
    image.getexif()[0x0112] = 3
    assert checked(image) == [[[0, 0, 255], [255, 0, 0]]]


ARRAY = r"expected uint8 \(H, W, 3\) in RGB, or \(H, W\) in gray\."
TENSOR = r"expected uint8 \(3, H, W\) in RGB\."


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (
            None,
            TypeError,
            r"the image is a NoneType: expected a path, URI, bytes, PIL image, uint8",
        ),
        (7, TypeError, r"the image is an int: .* Give several images as a list\."),
        ([RED_BLUE], TypeError, r"the image is a list: "),
        (bytearray(b"x"), TypeError, r"the image is a bytearray: "),
        ((x for x in "ab"), TypeError, r"the image is a generator: .* Give several images as a li"),
        (
            np.zeros((480, 640, 3), np.float32),
            TypeError,
            rf"the image is a float32 array \(480, 640, 3\): {ARRAY} If its values run from 0 to 1,"
            r" multiply by 255 and convert: \(255 \* image\)\.round\(\)\.astype\(np\.uint8\)\.",
        ),
        (
            np.zeros((2, 2), np.int64),
            TypeError,
            rf"the image is an int64 array \(2, 2\): {ARRAY} If its values run from 0 to 255, conv",
        ),
        (
            np.zeros((2, 2), bool),
            TypeError,
            r"is a bool array \(2, 2\): .* Multiply by 255 and conv",
        ),
        (np.array([None]), TypeError, r"is an object array \(1,\): .* Convert it to uint8\."),
        (
            np.zeros((2, 2, 4), np.uint8),
            ValueError,
            rf"\(2, 2, 4\): {ARRAY} Take image\[:, :, :3\]",
        ),
        (np.zeros((2, 2, 1), np.uint8), ValueError, rf"\(2, 2, 1\): {ARRAY} Take image\[:, :, 0\]"),
        (
            np.zeros((3, 2, 5), np.uint8),
            ValueError,
            rf"\(3, 2, 5\): {ARRAY} Put the channels last: ",
        ),
        (np.zeros((9, 2, 2, 3), np.uint8), ValueError, rf"{ARRAY} Give several images as a list: "),
        (np.zeros(9, np.uint8), ValueError, rf"a uint8 array \(9,\): {ARRAY} Give one image of"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, rf"{ARRAY} This one has no pixels"),
        (
            torch.zeros(3, 4, 5),
            TypeError,
            rf"the image is a float32 tensor \(3, 4, 5\): {TENSOR} If its values run from 0 to 1,"
            r" multiply by 255 and convert: \(255 \* image\)\.round\(\)\.to\(torch\.uint8\)\.",
        ),
        (
            torch.zeros(3, 4, 5, dtype=torch.int16),
            TypeError,
            r"is an int16 tensor .* 0 to 255, conv",
        ),
        (
            torch.zeros(3, 4, 5, dtype=torch.bool),
            TypeError,
            r"is a bool tensor .* Multiply by 255 a",
        ),
        (
            torch.zeros(4, 5, 3, dtype=torch.uint8),
            ValueError,
            rf"{TENSOR} Put the channels first: ",
        ),
        (torch.zeros(1, 4, 5, dtype=torch.uint8), ValueError, rf"{TENSOR} Repeat the gray channel"),
        (torch.zeros(4, 5, dtype=torch.uint8), ValueError, rf"{TENSOR} Repeat the gray channel"),
        (torch.zeros(4, 5, 6, dtype=torch.uint8), ValueError, rf"{TENSOR} Take image\[:3\]"),
        (torch.zeros(9, 5, 6, dtype=torch.uint8), ValueError, rf"{TENSOR} Give one image of"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.uint8), ValueError, rf"{TENSOR} Give several images"),
        (torch.zeros(3, 0, 5, dtype=torch.uint8), ValueError, rf"{TENSOR} This one has no pixels"),
        (Image.new("RGB", (0, 5)), ValueError, r"a PIL image of size \(0, 5\): it has no pixels"),
    ],
)
def test_a_value_that_is_no_image_is_refused_in_one_line(
    image: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        check_image(image)
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=r"^image 1 is "):
        check_images([RED_BLUE, image])


def check_and_read(image: Any, **settings: Any) -> None:
    check_image(image)
    read_pixels(image, place="image 3: ", **settings)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda folder: b"no image", ImageError, "^image 3: "),
        (lambda folder: folder / "no.png", ObjectMissing, "^image 3: {folder}/no.png: "),
        (lambda folder: folder / "cut.png", ImageError, "^image 3: {folder}/cut.png: "),
        (
            lambda folder: Image.open(BytesIO((folder / "cut.png").read_bytes())),
            ImageError,
            "^image 3: PIL image of mode RGB: ",
        ),
        (
            lambda folder: Image.new("La", (1, 1)),
            ImageError,
            "^image 3: PIL image of mode La: conversion from La",
        ),
    ],
)
def test_an_error_while_reading_names_the_image(
    tmp_path: Path, make: Callable[[Path], Any], error: type[Exception], text: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(error, match=text.format(folder=tmp_path)) as caught:
        check_and_read(make(tmp_path))
    assert getattr(caught.value, "status", None) in ("undecodable", "missing")


def test_a_pil_image_that_is_too_large_is_refused_before_decoding(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "large.png")
    opened = Image.open(BytesIO((tmp_path / "large.png").read_bytes()))
    for image in (tmp_path / "large.png", opened):
        with pytest.raises(ImageError, match="30 x 20 is more than 599 pixels") as caught:
            check_and_read(image, max_pixels=599)
        assert caught.value.status == "too_large"
        check_and_read(image, max_pixels=600)
