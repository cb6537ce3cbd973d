"""Images to score."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

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


def real_images(count: int) -> dict[str, bytes]:
    """`count` photographs of one size, each with bytes of its own, by name.

    Of one size, so that an image is padded alike whatever company it is in, and two runs can be compared.
    """
    folder = SHARED / "data" / "bccd" / "JPEGImages"
    files = sorted(folder.glob("*.jpg"))
    if not files:
        raise FileNotFoundError(f"no images in {folder}")
    contents = {}
    for number in range(count):
        data = files[number % len(files)].read_bytes()
        comment = f"copy {number // len(files)}".encode()
        # A comment segment after the start marker: the same pixels under another ETag.
        segment = b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment
        contents[f"{number:06d}.jpg"] = data[:2] + segment + data[2:]
    return contents
