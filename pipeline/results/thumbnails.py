"""Makes the pictures of a report: a thumbnail of each image, and crops of some boxes at original size.

They are JPEGs in data URIs. They hold only pixels, no metadata of the file.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from pipeline import images, storage
from pipeline.images import ImageError, SampleRules
from pipeline.storage import StorageError

_DEADLINE_S = 20.0
_MAX_PIXELS = 64_000_000
_QUALITY = 78  # JPEG quality; a thumbnail of 400 pixels takes about 20 kB
_CROP_QUALITY = 85
CROP_SIDE = 640
"""Longest side of a crop, in pixels. The crop of a larger box is reduced to it."""
_MARGIN = 0.25
_MIN_MARGIN = 12
"""Edge around the box of a crop: a share of its longer side, at least so many pixels."""

Corners = Sequence[float]
Region = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of one image.

    Args:
        thumbnail: data URI of the whole image.
        crops: region of the image (x_min, y_min, x_max, y_max; pixels) and data URI of each crop. Empty if
            the thumbnail has the size of the image.
    """

    thumbnail: str
    crops: tuple[tuple[Region, str], ...]


def make_pictures(
    uri: str, etag: str | None, *, side: int, boxes: Sequence[Corners], rules: SampleRules
) -> Pictures | StorageError | ImageError:
    """Read an image and make its pictures.

    Args:
        uri: the image.
        etag: the version to read; None means any.
        side: the longer side of the thumbnail, in pixels.
        boxes: xyxy in pixels of the image; each is in one of the crops.
        rules: how samples become pixels; those of the run.

    Returns:
        The pictures, or the error if the image cannot be read.
    """
    picture = read_picture(uri, etag, rules)
    if isinstance(picture, StorageError | ImageError):
        return picture
    regions = crop_regions(boxes, picture.size) if max(picture.size) > side else []
    crops = tuple(
        (region, _jpeg(picture.crop(region), CROP_SIDE, _CROP_QUALITY)) for region in regions
    )
    return Pictures(_jpeg(picture, side, _QUALITY), crops)


def read_picture(
    uri: str, etag: str | None, rules: SampleRules
) -> Image.Image | StorageError | ImageError:
    """Read an image for a page, or return the error. The arguments are those of `make_pictures`."""
    try:
        data = storage.read_bytes(
            uri, etag=etag, max_bytes=images.MAX_BYTES, deadline_s=_DEADLINE_S
        )
        return Image.fromarray(images.decode(data, max_pixels=_MAX_PIXELS, rules=rules).pixels)
    except (StorageError, ImageError) as error:
        return error


def crop_regions(boxes: Sequence[Corners], size: tuple[int, int]) -> list[Region]:
    """Choose the regions of crops: each box with a margin, unless an earlier region holds the box.

    Args:
        boxes: xyxy in pixels of the image.
        size: width and height of the image.
    """
    regions: list[Region] = []
    for x_min, y_min, x_max, y_max in boxes:
        if any(a <= x_min and b <= y_min and x_max <= c and y_max <= d for a, b, c, d in regions):
            continue
        margin = max(_MIN_MARGIN, _MARGIN * max(x_max - x_min, y_max - y_min))
        low = [max(0, math.floor(edge - margin)) for edge in (x_min, y_min)]
        high = [
            min(whole, math.ceil(edge + margin))
            for edge, whole in zip((x_max, y_max), size, strict=True)
        ]
        if high[0] > low[0] and high[1] > low[1]:
            regions.append((low[0], low[1], high[0], high[1]))
    return regions


def _jpeg(picture: Image.Image, side: int, quality: int) -> str:
    """Encode a picture as a data URI. A larger one is reduced to `side` pixels; the argument stays."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return data_uri(small, quality)


def data_uri(picture: Image.Image, quality: int) -> str:
    """Encode a picture as the data URI of a JPEG."""
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
