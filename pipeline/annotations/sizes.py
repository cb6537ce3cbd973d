"""Compares the image sizes that labels state with the decoded images.

A camera that is turned stores the picture lying, and EXIF's orientation says how to turn it. A labelling tool
that does not look at it states the lying size, and its boxes are in the lying frame: they are turned upright.
Any other size means that the image was changed after labelling. Nobody knows where its objects are.

Legend: N boxes of one image. H, W height and width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.annotations.labelled import BadLabel, LabelledImage, first_few
from pipeline.annotations.numbering import CUT, IGNORED, LEFT_OUT, cut, leaves
from pipeline.annotations.rules import OnBadLabel
from pipeline.errors import StorageError, UserError
from pipeline.images import ImageError, read_orientation
from pipeline.runtime.prefetch import in_threads

logger = logging.getLogger(__name__)

Boxes = npt.NDArray[np.float32]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Labelled images whose boxes are in the frame of the decoded image, and what does not fit."""

    images: dict[str, LabelledImage] = field(default_factory=dict)
    """image_uri -> the image with its boxes."""
    bad: list[BadLabel] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """image_uri -> reason, for images whose boxes have no known place."""


def compare_sizes(
    images: Sequence[LabelledImage],
    sizes: Mapping[str, Size],
    on_bad_label: OnBadLabel,
    *,
    only_warn: bool = False,
    quiet: bool = False,
) -> Compared:
    """Turn boxes upright where EXIF explains the stated size, and find labels that do not fit their image.

    Args:
        images: may hold an image twice, with the same labels.
        sizes: image_uri -> (height, width) of the decoded image. Other images are returned as they are.
        on_bad_label: whether a box that leaves the image is cut or becomes an ignored region.
        only_warn: change no label: the run was begun before sizes were compared.
        quiet: log no count.
    """
    compared = Compared(images={image.image_uri: image for image in images})
    pairs = [(i, sizes[uri]) for uri, i in compared.images.items() if uri in sizes]
    other = [(i, size) for i, size in pairs if i.size is not None and i.size != size]
    swapped = [image for image, size in other if image.size == size[::-1]]
    found = in_threads(lambda image: _orientation(image.image_uri), swapped)
    turns = {i.image_uri: turn for i, turn in zip(swapped, found, strict=True) if turn >= 5}
    if only_warn:
        _warn(len(images), [image for image, _ in other], turns)
        return compared
    for image, size in pairs:
        uri = image.image_uri
        if uri in turns:
            compared.images[uri] = turn_upright(image, turns[uri])
        elif image.size is not None and image.size != size:
            bad = _other_size(image, size)
            compared.bad.append(bad)
            compared.left_out[uri] = bad.text
        elif image.size is None:
            compared.images[uri] = _inside(image, size, on_bad_label, compared.bad)
    if turns and not quiet:
        logger.info(
            "%d of %d images: the stated size is that before EXIF turns the image; boxes turned upright: %s",
            len(turns),
            len(compared.images),
            first_few(sorted(turns)),
        )
    return compared


def _orientation(uri: str) -> int:
    """Return the EXIF orientation of an image; 1 if it cannot be read, so that its size counts as wrong."""
    try:
        return read_orientation(storage.read_bytes(uri))
    except (StorageError, ImageError) as error:
        logger.warning("%s: cannot read its EXIF orientation (%s)", uri, error)
        return 1


def _warn(num_images: int, other: Sequence[LabelledImage], turns: Mapping[str, int]) -> None:
    if other:
        logger.warning(
            "%d of %d images have another size than their labels state, %d of them for EXIF; this run was"
            " begun before that was checked, and uses the labels as they are: %s",
            len(other),
            num_images,
            len(turns),
            first_few([image.image_uri for image in other]),
        )


def turn_upright(image: LabelledImage, orientation: int) -> LabelledImage:
    """Turn the boxes of an image by its EXIF orientation, 5 to 8. It states the size of the stored frame."""
    assert image.size is not None
    height, width = image.size
    return replace(
        image,
        gt_boxes=turned(image.gt_boxes, orientation, image.size),
        ignored=turned(image.ignored, orientation, image.size),
        size=(width, height),
    )


def turned(boxes: Boxes, orientation: int, size: Size) -> Boxes:
    """Move boxes (N, 4), xyxy, from the stored frame to the upright one.

    Args:
        boxes: in the stored frame.
        orientation: EXIF's, 5 to 8; each swaps the sides.
        size: (height, width) of the stored frame.
    """
    height, width = size
    x1, y1, x2, y2 = boxes.T
    if orientation in (6, 7):  # the left of the upright image is the bottom of the stored one
        y1, y2 = height - y2, height - y1
    if orientation in (7, 8):  # the top is the right
        x1, x2 = width - x2, width - x1
    return np.stack([y1, x1, y2, x2], axis=1).astype(np.float32)


def _other_size(image: LabelledImage, size: Size) -> BadLabel:
    assert image.size is not None
    (height, width), (real_height, real_width) = image.size, size
    error = UserError(
        f"{image.annotation_uri} (image {storage.basename(image.image_uri)})",
        f"states {width} x {height} pixels, but the image has {real_width} x {real_height}",
        "Label the images as they are now, or restore the images that were labelled."
        " --on-bad-label skip leaves such images out.",
    )
    return BadLabel(image.annotation_uri, f"image {image.image_id}", error, done="image left out")


def _inside(
    image: LabelledImage, size: Size, on_bad_label: OnBadLabel, bad: list[BadLabel]
) -> LabelledImage:
    """Find the boxes that leave an image without a stated size, and cut them or make them ignored regions."""
    outside = [n for n, box in enumerate(image.gt_boxes.tolist()) if leaves(box, size)]
    if not outside:
        return image
    boxes, regions = image.gt_boxes.copy(), [image.ignored]
    keep = np.ones(len(boxes), bool)
    for n in outside:
        region = cut(boxes[n].tolist(), size)
        done = LEFT_OUT if region is None else IGNORED
        if region is not None and on_bad_label == "clip":
            boxes[n], done = region, CUT
        else:
            keep[n] = False
            regions += [] if region is None else [np.array([region], np.float32)]
        bad.append(_outside(image, image.gt_boxes[n].tolist(), size, done))
    return replace(
        image,
        gt_boxes=boxes[keep],
        gt_labels=image.gt_labels[keep],
        difficult=image.difficult[keep],
        crowd=image.crowd[keep],
        areas=None if image.areas is None else image.areas[keep],
        ignored=np.concatenate(regions),
    )


def _outside(image: LabelledImage, box: Sequence[float], size: Size, done: str) -> BadLabel:
    height, width = size
    written = ", ".join(f"{edge:g}" for edge in box)
    error = UserError(
        f"{image.annotation_uri} (image {storage.basename(image.image_uri)})",
        f"the box [{written}] lies outside its image, {width} wide and {height} high",
        "Correct the box, or state the size of the image that was labelled.",
    )
    return BadLabel(image.annotation_uri, f"box [{written}]", error, done=done)
