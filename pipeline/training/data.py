"""What is trained on: labelled images read and checked, joined with their proposals."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastrcnn.config import ProposalConfig
from pipeline import storage
from pipeline.annotations import LabelledImages, read_labelled_images, splits
from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.proposals import compute_proposals
from pipeline.proposals_table import Boxes, ProposalsError, ProposalsTable
from pipeline.reading import check_failures
from pipeline.training.examples import Example

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

    Where the model makes its own, each image is looked at once all the same: what cannot be decoded is left
    out here, and does not end a training hours later.

    Raises:
        UserError: a given table has no usable row for an image.
        JobError: more images than --max-failures allows are not there or could not be read.
    """
    parts = [training.images, validation.images if validation else ()]
    wanted = sorted({image.image_uri for part in parts for image in part})
    if proposer.spec.precomputed:
        boxes = _table_boxes(config, wanted)
    else:
        # Every object, whatever its suffix: what is labelled is an image.
        listed = {info.uri: info for info in storage.list_objects(config.data)}
        infos = [listed[uri] for uri in wanted if uri in listed]
        folder = storage.join(config.output, "checked" if proposer.spec.learned else "proposals")
        boxes, errors = compute_proposals(infos, proposer, folder)
        errors |= {uri: "missing: labelled, but not there" for uri in wanted if uri not in listed}
        check_failures(errors, len(wanted), config.max_failures)
    pairs = [
        [Example(image, boxes[image.image_uri]) for image in part if image.image_uri in boxes]
        for part in parts
    ]
    return pairs[0], pairs[1]


def _table_boxes(config: TrainConfig, wanted: Sequence[str]) -> dict[str, Boxes]:
    table = ProposalsTable.read(config.proposals, root=config.data)
    try:
        return {uri: table.of(uri, config.max_proposals) for uri in wanted}
    except ProposalsError as error:
        raise UserError(
            f"--proposals {config.proposals}",
            str(error),
            "Every training image needs a row; one without proposals has an empty list.",
        ) from error
