"""One split of a data set, in whatever format it is written."""

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
    """Read one split of a data set; its format is recognised by its files.

    Args:
        uri: the data set's folder, local or remote.
        split: as the data set names it.
        classes: names in label order; empty for those of the data set.
        limit: only the first images by URI. Without `classes` they do not depend on it.

    Raises:
        UserError: no known format, no such split, nothing in it, a broken annotation file, an unknown class.
    """
    tree = list_tree(uri)
    format = find_format(tree)
    known = format.splits(tree)
    if split not in known:
        raise UserError(
            f"split {split!r} of {uri}",
            f"there is none in this {format.name} data set",
            f"There are: {', '.join(known) or 'none'}.",
        )
    early = limit if classes or format.declares_classes else None
    annotations = format.read(tree, split, early)
    if not annotations.images:
        raise UserError(
            f"split {split!r} of {uri}", "has no labelled image", f"There are: {', '.join(known)}."
        )
    labelled = number_labels(annotations, format.name, classes)
    return replace(labelled, images=labelled.images[:limit])


def splits(uri: str) -> tuple[str, ...]:
    """Name a data set's splits. Raises `UserError` where there is no data set."""
    tree = list_tree(uri)
    return find_format(tree).splits(tree)
