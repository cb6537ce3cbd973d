"""What is trained on: labelled images read and checked, joined with their proposals."""

from __future__ import annotations

import logging

from fastrcnn.config import ProposalConfig
from pipeline import storage
from pipeline.annotations import LabelledImages, read_labelled_images, splits
from pipeline.config import TrainConfig
from pipeline.errors import JobError, UserError
from pipeline.examples import Example
from pipeline.images import IMAGE_SUFFIXES
from pipeline.proposals import Boxes, compute_proposals, read_table

logger = logging.getLogger(__name__)


def read_data(config: TrainConfig) -> tuple[LabelledImages, LabelledImages | None]:
    """Training and validation images, every problem of theirs logged. Raises UserError."""
    training = read_labelled_images(
        config.data, config.split, classes=config.classes, limit=config.limit
    )
    val_split = config.val_split
    if val_split is None and "val" in splits(config.data) and config.split == "train":
        val_split = "val"
    validation = None
    if val_split is not None:
        validation = read_labelled_images(config.data, val_split, classes=training.classes)
    for part in filter(None, (training, validation)):
        for problem in part.problems:
            logger.warning("%s", problem)
    return training, validation


def with_proposals(
    config: TrainConfig,
    proposer: ProposalConfig,
    training: LabelledImages,
    validation: LabelledImages | None,
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples: labelled images joined with their proposals.

    Raises:
        UserError: a given table has no row for an image.
        JobError: more images than --max-failures allows could not be read.
    """
    parts = [training.images, validation.images if validation else ()]
    wanted = {image.image_uri for part in parts for image in part}
    if proposer.name == "table":
        boxes = _table_boxes(config, wanted)
    else:
        listed = storage.list_objects(config.data, suffixes=IMAGE_SUFFIXES)
        folder = storage.join(config.output, "proposals")
        infos = [info for info in listed if info.uri in wanted]
        boxes, errors = compute_proposals(infos, proposer, folder)
        _check_failures(config, errors, len(wanted))
    pairs = [
        [Example(image, boxes[image.image_uri]) for image in part if image.image_uri in boxes]
        for part in parts
    ]
    return pairs[0], pairs[1]


def _table_boxes(config: TrainConfig, wanted: set[str]) -> dict[str, Boxes]:
    """Boxes of a given table, whose image_uri is full or relative to --data."""
    root = storage.join(storage.absolute(config.data), "")
    table = read_table(config.proposals)
    boxes = {}
    for uri in sorted(wanted):
        own = table.get(uri, table.get(uri.removeprefix(root)))
        if own is None:
            raise UserError(
                f"--proposals {config.proposals}",
                f"has no row for {uri}",
                "Every training image needs one; an image without proposals has an empty list.",
            )
        boxes[uri] = own[: config.max_proposals]
    return boxes


def _check_failures(config: TrainConfig, errors: dict[str, str], total: int) -> None:
    for uri, error in sorted(errors.items()):
        logger.warning("left out: %s: %s", uri, error)
    if len(errors) > config.max_failures * total:
        uri, error = next(iter(sorted(errors.items())))
        raise JobError(
            f"{len(errors)} of {total} images cannot be used, more than --max-failures"
            f" {config.max_failures:g} allows; first {uri}: {error}"
        )
