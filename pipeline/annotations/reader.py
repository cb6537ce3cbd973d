"""Reads one split of a data set, in any known format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.annotations.formats import find_format
from pipeline.annotations.labelled import LabelledImages, number_labels
from pipeline.annotations.tree import list_tree
from pipeline.errors import UserError


def read_labelled_images(
    uri: str, split: str, *, classes: Sequence[str] = (), limit: int | None = None
) -> LabelledImages:
    """Read one split of a data set. The format is recognised by the files.

    Args:
        uri: the folder of the data set, local or remote.
        split: the name of the split in the data set.
        classes: class names in label order; empty means the classes of the data set.
        limit: read only this many images, the first by URI; None reads all. The classes of the data set do
            not depend on it.

    Raises:
        UserError: the format is unknown, the split does not exist or is empty, an annotation file is broken,
            or a box has a class that is not in `classes`.
    """
    tree = list_tree(uri)
    format = find_format(tree)
    known = format.splits(tree)
    if split not in known:
        raise UserError(
            f"split {split!r} of {uri}",
            f"this {format.name} data set has no such split",
            f"Its splits are: {', '.join(known) or 'none'}.",
        )
    early = limit if classes or format.declares_classes else None
    annotations = format.read(tree, split, early)
    if not annotations.images:
        raise UserError(
            f"split {split!r} of {uri}",
            "has no labelled image",
            f"The splits of this data set are: {', '.join(known)}.",
        )
    labelled = number_labels(annotations, format.name, classes)
    return replace(labelled, images=labelled.images[:limit])


def splits(uri: str) -> tuple[str, ...]:
    """List the names of a data set's splits. Raises `UserError` if `uri` holds no data set."""
    tree = list_tree(uri)
    return find_format(tree).splits(tree)
