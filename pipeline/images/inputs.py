"""Reads what the library accepts as an image: upright uint8 RGB pixels.

    path or URI, encoded bytes     read and decoded as a scoring job does (`pipeline.images`)
    PIL image                      EXIF orientation applied, converted to RGB by the decoder's rules
    array (H, W, 3) or (H, W)      uint8; RGB, or gray
    torch tensor (3, H, W)         uint8, RGB

Everything else is refused with one line that names its kind and its position in the list. This module does
not import torch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from pipeline import images as decoder
from pipeline import storage
from pipeline.images import MAX_PIXELS, ImageError
from pipeline.images.pillow import pixels_of_image
from pipeline.images.regions import has_parts, stored_parts
from pipeline.images.samples import NEUTRAL, SampleRules
from pipeline.images.tiff_directory import Data

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Image: TypeAlias = "str | Path | bytes | PILImage.Image | npt.NDArray[np.uint8] | Tensor"
Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) RGB, C-contiguous."""

_ARRAY = "uint8 (H, W, 3) in RGB, or (H, W) in gray"
_TENSOR = "uint8 (3, H, W) in RGB"


def check_images(images: Sequence[object]) -> None:
    """Check several images, before any of them is read.

    Raises:
        TypeError, ValueError: as `check_image`, for the first bad image, with its position from 0.
    """
    for index, image in enumerate(images):
        check_image(image, f"image {index}")


def check_image(image: object, name: str = "the image") -> None:
    """Check that a value is an image of a known kind. No file is read.

    Args:
        image: the value that the caller gave.
        name: its name in an error.

    Raises:
        TypeError: the value is no known kind of image, or an array or tensor that is not uint8.
        ValueError: an array or tensor has another shape, or the image has no pixels.
    """
    if isinstance(image, str | Path | bytes):
        return
    if isinstance(image, PILImage.Image):
        if 0 in image.size:
            raise ValueError(f"{name} is a PIL image of size {image.size}: it has no pixels.")
    elif isinstance(image, np.ndarray):
        _check_array(image, name)
    elif _is_tensor(image):
        _check_tensor(image, name)
    else:
        raise TypeError(
            f"{name} is {_with_article(type(image).__name__)}: expected a path, URI, bytes, PIL image,"
            " uint8 array or torch uint8 tensor. Give several images as a list."
        )


def parts_of(image: object, max_pixels: int) -> Data | None:
    """Return the bytes of an image that is too large to be decoded whole, and of which parts can be decoded.

    Of a path or URI, only the bytes of the parts are read. None: `read_pixels` reads the image, or says what
    is wrong with it.
    """
    if isinstance(image, bytes):
        return image if has_parts(image, max_pixels) else None
    if not isinstance(image, str | Path):
        return None
    try:
        info = storage.stat(str(image))
        return stored_parts(str(image), info.size or 0, info.etag, max_pixels)
    except storage.StorageError:
        return None


def read_pixels(
    image: Image,
    *,
    max_pixels: int = MAX_PIXELS,
    rules: SampleRules = NEUTRAL,
    truncated: decoder.Truncated = "warn",
    place: str = "",
) -> Pixels:
    """Read one image that `check_image` accepts.

    Args:
        image: an image of any kind in the table above.
        max_pixels: files and PIL images with more pixels are refused before they are decoded.
        rules: how samples of more than 8 bits become pixels. Arrays and tensors have 8 bits.
        truncated: what to do with a JPEG that lacks its end.
        place: the beginning of an error message, e.g. ``image 3: ``.

    Raises:
        StorageError: the path or URI cannot be read.
        ImageError: the file or the PIL image cannot be decoded.
    """
    if isinstance(image, np.ndarray):
        rgb = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
        return np.ascontiguousarray(rgb)
    if _is_tensor(image):
        pixels: Pixels = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
        return pixels
    decode = partial(decoder.decode, max_pixels=max_pixels, rules=rules, truncated=truncated)
    with located(image, place):
        if isinstance(image, PILImage.Image):
            pixels, warning = pixels_of_image(image, max_pixels, rules)
            if warning:
                logger.warning("%s%s%s", place, _kind(image), warning)
            return pixels
        if isinstance(image, bytes):
            return decode(image).pixels
        return decode(storage.read_bytes(str(image))).pixels


@contextmanager
def located(image: Image, place: str) -> Iterator[None]:
    """Name the image in the errors that are raised in the block.

    Args:
        place: as in `read_pixels`.
    """
    try:
        yield
    except storage.StorageError as error:  # its text begins with the URI
        raise type(error)(f"{place}{error}") from error
    except ImageError as error:
        raise ImageError(error.status, f"{place}{_kind(image)}{error}") from error


def _kind(image: Image) -> str:
    """Return the beginning of an error about the content of an image."""
    if isinstance(image, PILImage.Image):
        return f"PIL image of mode {image.mode}: "
    return f"{image}: " if isinstance(image, str | Path) else ""


def _check_array(image: npt.NDArray[Any], name: str) -> None:
    given = f"{name} is {_with_article(str(image.dtype))} array {image.shape}: expected {_ARRAY}."
    if image.dtype != np.uint8:
        raise TypeError(f"{given} {_conversion_advice(image.dtype.kind, '.astype(np.uint8)')}")
    shape = image.shape
    if len(shape) == 4:
        raise ValueError(f"{given} Give several images as a list: list(images).")
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
        hint = "Give one image of that shape."
        if len(shape) == 3 and shape[2] in (1, 4):
            hint = {1: "Take image[:, :, 0].", 4: "Take image[:, :, :3]."}[shape[2]]
        elif len(shape) == 3 and shape[0] == 3:
            hint = "Put the channels last: image.transpose(1, 2, 0)."
        raise ValueError(f"{given} {hint}")
    if 0 in shape:
        raise ValueError(f"{given} This one has no pixels.")


def _check_tensor(image: Tensor, name: str) -> None:
    shape, dtype = tuple(image.shape), str(image.dtype).removeprefix("torch.")
    given = f"{name} is {_with_article(dtype)} tensor {shape}: expected {_TENSOR}."
    if dtype != "uint8":
        kind = "f" if image.is_floating_point() else "b" if dtype == "bool" else "i"
        raise TypeError(f"{given} {_conversion_advice(kind, '.to(torch.uint8)')}")
    if len(shape) == 4:
        raise ValueError(f"{given} Give several images as a list: list(images).")
    if len(shape) != 3 or shape[0] != 3:
        hint = "Give one image of that shape."
        if len(shape) == 2 or (len(shape) == 3 and shape[0] == 1):
            hint = "Repeat the gray channel: image.expand(3, -1, -1)."
        elif len(shape) == 3 and shape[2] == 3:
            hint = "Put the channels first: image.permute(2, 0, 1)."
        elif len(shape) == 3 and shape[0] == 4:
            hint = "Take image[:3]."
        raise ValueError(f"{given} {hint}")
    if 0 in shape:
        raise ValueError(f"{given} This one has no pixels.")


def _conversion_advice(kind: str, convert: str) -> str:
    """Advise how to convert values of another type to uint8; `kind` as in `numpy.dtype.kind`."""
    if kind == "f":
        return f"If its values run from 0 to 1, multiply by 255 and convert: (255 * image).round(){convert}."
    if kind == "b":
        return f"Multiply by 255 and convert: (255 * image){convert}."
    if kind in "iu":
        return f"If its values run from 0 to 255, convert: image{convert}."
    return "Convert it to uint8."


def _is_tensor(image: object) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")  # if torch is not imported, the value is no tensor
    return torch is not None and isinstance(image, torch.Tensor)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeio' else 'a'} {noun}"
