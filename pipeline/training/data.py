"""Read the training data: labelled images, checked and joined with their proposals."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastrcnn.config import ProposalConfig
from pipeline import storage
from pipeline.annotations import LabelledImages, read_labelled_images, splits
from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.proposals import compute_proposals
from pipeline.proposals.reading import check_failures
from pipeline.proposals.table import Boxes, ProposalsError, ProposalsTable
from pipeline.training.examples import Example

logger = logging.getLogger(__name__)


def read_data(config: TrainConfig) -> tuple[LabelledImages, LabelledImages | None]:
    """Read the labels of training and validation images, and log each problem in them.

    Returns:
        Training images, and validation images or None. Without --val-split, the split `val` is used if the
        data has it and --split is `train`.

    Raises:
        UserError: the labels cannot be used.
    """
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
    """Join labelled images with their proposals, to training and validation examples.

    An image without proposals because it cannot be read is left out. With an RPN, no proposals are
    computed, but each image is still decoded once: a broken image is left out now and does not end the
    training hours later.

    Raises:
        UserError: the given proposals table has no usable row for an image.
        JobError: a larger share of images than --max-failures is missing or unreadable.
    """
    parts = [training.images, validation.images if validation else ()]
    image_uris = sorted({image.image_uri for part in parts for image in part})
    if proposer.spec.precomputed:
        boxes = _table_boxes(config, image_uris)
    else:
        # List objects with any suffix: a labelled object is an image.
        listed = {info.uri: info for info in storage.list_objects(config.data)}
        infos = [listed[uri] for uri in image_uris if uri in listed]
        folder = storage.join(config.output, "checked" if proposer.spec.learned else "proposals")
        boxes, errors = compute_proposals(infos, proposer, folder)
        missing = "missing: it has labels, but the file does not exist"
        errors |= {uri: missing for uri in image_uris if uri not in listed}
        check_failures(errors, len(image_uris), config.max_failures)
    pairs = [
        [Example(image, boxes[image.image_uri]) for image in part if image.image_uri in boxes]
        for part in parts
    ]
    return pairs[0], pairs[1]


def _table_boxes(config: TrainConfig, image_uris: Sequence[str]) -> dict[str, Boxes]:
    """Read the proposals (P, 4) of these images from the table that --proposals names."""
    table = ProposalsTable.read(config.proposals, root=config.data)
    try:
        return {uri: table.of(uri, config.max_proposals) for uri in image_uris}
    except ProposalsError as error:
        raise UserError(
            f"--proposals {config.proposals}",
            str(error),
            "Add a row for each training image; one without proposals has an empty list.",
        ) from error
