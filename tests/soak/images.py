"""Images to score."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.storage.archives.writing import end_of, header_of, padding
from tests.conftest import SHARED


def drawn_images(count: int, height: int = 40, width: int = 56) -> dict[str, bytes]:
    """JPEGs of noise, each another, by name."""
    contents = {}
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        contents[f"{number:06d}.jpg"] = buffer.getvalue()
    return contents


def in_tars(contents: Mapping[str, bytes], each: int) -> tuple[dict[str, bytes], list[str]]:
    """Put images into tars of `each`. Return the tars by name, and the names of the images in them.

    A name of an image is ``tar://000012.jpg::{}/000000.tar``, where {} is the folder of the tars.
    """
    tars, members = {}, []
    items = list(contents.items())
    for first in range(0, len(items), each):
        name, out = f"{first:06d}.tar", io.BytesIO()
        for image, data in items[first : first + each]:
            out.write(header_of(image.encode(), len(data)) + data + padding(len(data)))
            members.append(f"tar://{image}::{{}}/{name}")
        tars[name] = out.getvalue() + end_of(out.tell())
    return tars, members


FENCED_EVERY = 10
"""Every tenth image is a PNG, which a separate process decodes."""


def real_images(count: int) -> dict[str, bytes]:
    """`count` photographs of one size, each with other bytes, by name.

    They have one size, so every batch pads them alike, and two runs can be compared.
    """
    folder = SHARED / "data" / "bccd" / "JPEGImages"
    files = sorted(folder.glob("*.jpg"))
    if not files:
        raise FileNotFoundError(f"no images in {folder}")
    contents = {}
    for number in range(count):
        data = files[number % len(files)].read_bytes()
        comment = f"copy {number // len(files)}"
        if number % FENCED_EVERY == 0:
            contents[f"{number:06d}.png"] = _png(data, comment)
        else:
            contents[f"{number:06d}.jpg"] = _with_comment(data, comment.encode())
    return contents


def _with_comment(data: bytes, comment: bytes) -> bytes:
    """Put a comment after the start marker of a JPEG: the same pixels under another ETag."""
    segment = b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment
    return data[:2] + segment + data[2:]


def _png(data: bytes, comment: str) -> bytes:
    """Write an image as PNG, with a comment."""
    buffer, text = io.BytesIO(), PngInfo()
    text.add_text("Comment", comment)
    Image.open(io.BytesIO(data)).save(buffer, "PNG", pnginfo=text, compress_level=1)
    return buffer.getvalue()
