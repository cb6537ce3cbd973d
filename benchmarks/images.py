"""Read the images of the benchmarks: photographs, labelled images, and mosaics of labelled images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.annotations import read_labelled_images
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES, ImageError, decode

logger = logging.getLogger(__name__)

Boxes = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]


def photographs(folder: Path, count: int) -> list[Path]:
    """List `count` images in a local folder and its subfolders, by name. Fewer images are repeated.

    Raises:
        UserError: the folder holds no image.
    """
    paths = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(IMAGE_SUFFIXES))
    if not paths:
        raise UserError(f"--images {folder}", "holds no image", "Give a folder of photographs.")
    return [paths[number % len(paths)] for number in range(count)]


def upload(paths: Sequence[Path], uri: str) -> str:
    """Upload the images under new names, or link them if the target is a local folder. Gives the target
    URI."""
    bucket = uri.startswith("s3://")
    if not bucket:
        Path(uri).mkdir()
    for number, path in enumerate(paths):
        target = storage.join(uri, f"{number:06d}{path.suffix}")
        if bucket:
            storage.upload_file(path, target)
        else:
            Path(target).symlink_to(path.resolve())
    return uri


def read(
    data: Sequence[str], split: str, limit: int | None, side: int
) -> dict[str, list[tuple[Image, Boxes]]]:
    """Read images (H, W, 3) and their ground-truth boxes (G, 4), by data set. Images without boxes are left
    out.

    Args:
        data: folders or URIs of labelled images.
        split: the split of each data set.
        limit: number of images of each data set, spread over the split. None: all.
        side: a mosaic has `side` x `side` images. 0: no mosaics.
    """
    sets: dict[str, list[tuple[Image, Boxes]]] = {}
    for uri in data:
        images = [i for i in read_labelled_images(uri, split).images if len(i.gt_boxes)]
        step = max(1, len(images) // limit) if limit else 1
        pairs = [(i.image_uri, i.gt_boxes) for i in images[::step][:limit]]
        sets[storage.basename(uri.rstrip("/"))] = list(_decoded(pairs))
    if side:
        each = side**2
        mixed = [pair for group in zip(*sets.values(), strict=False) for pair in group]
        tiles = [mixed[i : i + each] for i in range(0, len(mixed) - each + 1, each)]
        sets["mosaic"] = [mosaic(group, side) for group in tiles]
    return {name: images for name, images in sets.items() if images}


def _decoded(pairs: list[tuple[str, Boxes]]) -> Iterator[tuple[Image, Boxes]]:
    for uri, gt_boxes in pairs:
        try:
            yield decode(storage.read_bytes(uri)).pixels, gt_boxes
        except ImageError as error:
            logger.warning("image left out: %s: %s", uri, error)


def mosaic(images: list[tuple[Image, Boxes]], side: int, size: tuple[int, int] = (480, 640)) -> Any:
    """Make one picture of `side` x `side` shrunken images, and give their boxes with sides of at least 8
    px."""
    picture = np.zeros((*size, 3), np.uint8)
    objects = []
    for tile, (pixels, gt_boxes) in enumerate(images):
        y1, y2 = (size[0] * (tile // side + n) // side for n in (0, 1))
        x1, x2 = (size[1] * (tile % side + n) // side for n in (0, 1))
        shrunk = cv2.resize(pixels, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA)
        picture[y1:y2, x1:x2] = shrunk
        scale = np.array([(x2 - x1) / pixels.shape[1], (y2 - y1) / pixels.shape[0]] * 2)
        objects.append(gt_boxes * scale + (x1, y1, x1, y1))
    boxes = np.concatenate(objects).astype(np.float32)
    return picture, boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 8]
