"""Looks at images before anything is fitted to their boxes: sizes against the labels, and EXIF orientations.

The training compares every image later, when it is decoded. This is for a dry run, which decodes nothing, and
for anchors and grids, which are fitted before. It reads a bounded number of images, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline import storage
from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.annotations.labelled import first_few
from pipeline.annotations.sizes import Size, compare_sizes
from pipeline.config import TrainConfig
from pipeline.errors import StorageError
from pipeline.images import ImageError, read_orientation, read_size
from pipeline.runtime.prefetch import in_threads
from pipeline.training.bad_labels import check_bad_labels
from pipeline.training.stored_run import StoredRun

logger = logging.getLogger(__name__)

MOST_IMAGES = 500
"""Images that are looked at. Of more, an even sample is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What the headers of some images say."""

    images: tuple[LabelledImage, ...]
    """The images that were looked at."""
    sizes: dict[str, Size] = field(default_factory=dict)
    """image_uri -> (height, width) of the upright image."""
    orientations: dict[str, int] = field(default_factory=dict)
    """image_uri -> EXIF orientation."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """image_uri -> reason."""

    @property
    def turned(self) -> bool:
        """Whether the stated size of an image is that before EXIF turns it."""
        return any(
            image.size == self.sizes[image.image_uri][::-1] != self.sizes[image.image_uri]
            and self.orientations[image.image_uri] >= 5
            for image in self.images
            if image.image_uri in self.sizes
        )


def look_at(images: Sequence[LabelledImage], most: int = MOST_IMAGES) -> Looked:
    """Read the headers of at most `most` images, evenly spread."""
    step = max(1, -(-len(images) // most))
    looked = Looked(images=tuple(images[::step]))
    for image, header in zip(looked.images, in_threads(_header, looked.images), strict=True):
        if isinstance(header, str):
            looked.unreadable[image.image_uri] = header
        else:
            looked.sizes[image.image_uri], looked.orientations[image.image_uri] = header
    return looked


def _header(image: LabelledImage) -> tuple[Size, int] | str:
    """Return size and EXIF orientation of an image, or why they cannot be read."""
    try:
        data = storage.read_bytes(image.image_uri)
        return read_size(data), read_orientation(data)
    except (StorageError, ImageError) as error:
        return str(error)


def upright_images(
    images: Sequence[LabelledImage], looked: Looked, begun: StoredRun
) -> Sequence[LabelledImage]:
    """Return the images with upright boxes, to fit anchors or a grid to.

    If no box of the sample had to be turned, nothing is read. Otherwise all headers are. Images whose size
    contradicts their label are left out, as in the training.

    Args:
        begun: the run that the output holds. An old one is fitted to the boxes as labelled, as it was.
    """
    if begun.fits_as_labelled or not looked.turned:
        return images
    every = looked if len(looked.images) == len(images) else look_at(images, len(images))
    compared = compare_sizes(images, every.sizes, "skip", quiet=True)
    return [
        compared.images[image.image_uri]
        for image in images
        if image.image_uri not in compared.left_out
    ]


def log_orientations(looked: Looked, num_images: int) -> None:
    """Count the images whose size cannot tell whether their boxes were drawn before EXIF turned them."""
    unclear = [
        uri
        for uri, orientation in looked.orientations.items()
        if 2 <= orientation <= 4 or (orientation >= 5 and len(set(looked.sizes[uri])) == 1)
    ]
    if unclear:
        logger.info(
            "%d of %s have an EXIF orientation that their size does not show (mirrored, upside down, or"
            " square); their boxes are taken as upright: %s",
            len(unclear),
            _of(looked, num_images),
            first_few(unclear),
        )


def compare_in_dry_run(
    config: TrainConfig, parts: Sequence[LabelledImages], looked: Sequence[Looked]
) -> None:
    """Compare the labels of a sample with the sizes of its images, as the training compares all.

    Raises:
        UserError: a label does not fit its image, and --on-bad-label is `refuse`.
    """
    for part, one in zip(parts, looked, strict=True):
        if len(one.images) < len(part.images):
            logger.info(
                "compared the labels of %s with their images; the training compares all",
                _of(one, len(part.images)),
            )
        if one.unreadable:
            shown = [f"{uri} ({why})" for uri, why in one.unreadable.items()]
            logger.warning(
                "%d of %s cannot be read: %s",
                len(shown),
                _of(one, len(part.images)),
                first_few(shown, 3),
            )
    sizes = {uri: size for one in looked for uri, size in one.sizes.items()}
    images = [image for one in looked for image in one.images]
    compared = compare_sizes(images, sizes, config.on_bad_label)
    check_bad_labels(config, compared.bad, [bad for part in parts for bad in part.bad])


def _of(looked: Looked, num_images: int) -> str:
    """Say how many images were looked at."""
    if len(looked.images) == num_images:
        return f"{num_images} images"
    return f"{len(looked.images)} images (a sample of {num_images})"
