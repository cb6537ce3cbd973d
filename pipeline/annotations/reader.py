"""Which layout a data set has, and one split of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.annotations import coco, voc, yolo
from pipeline.annotations.labelled import Annotations, LabelledImages, Layout, number_labels
from pipeline.annotations.tree import Tree, list_tree
from pipeline.errors import UserError


@dataclass(frozen=True, slots=True)
class _Reader:
    layout: Layout
    recognises: Callable[[Tree], bool]
    splits: Callable[[Tree], tuple[str, ...]]
    read: Callable[[Tree, str, int | None], Annotations]


# In the order in which they are looked for: the most particular first.
_READERS = (
    _Reader("voc", voc.is_voc, voc.voc_splits, voc.read_voc),
    _Reader("yolo", yolo.is_yolo, yolo.splits, yolo.read),
    _Reader("coco", coco.is_coco, coco.splits, coco.read),
    _Reader("labelimg", voc.is_labelimg, voc.labelimg_splits, voc.read_labelimg),
)


def read_labelled_images(
    uri: str, split: str, *, classes: Sequence[str] = (), limit: int | None = None
) -> LabelledImages:
    """One split of a data set, its layout found by looking.

    Args:
        uri: the data set's folder, local or remote.
        split: as the data set names it.
        classes: names in label order; empty for those of the data set.
        limit: only the first images by URI. Without `classes` they do not depend on it.

    Raises:
        UserError: no known layout, no such split, nothing in it, a broken annotation file, an unknown class.
    """
    tree = list_tree(uri)
    reader = _find_reader(tree)
    known = reader.splits(tree)
    if split not in known:
        raise UserError(
            f"split {split!r} of {uri}",
            f"there is none in this {reader.layout} data set",
            f"There are: {', '.join(known) or 'none'}.",
        )
    # VOC names its classes only in the annotations, so all of them are read to know the classes.
    early = limit if classes or reader.layout in ("coco", "yolo") else None
    found = reader.read(tree, split, early)
    if not found.images:
        raise UserError(
            f"split {split!r} of {uri}", "has no labelled image", f"There are: {', '.join(known)}."
        )
    labelled = number_labels(found, reader.layout, classes)
    if limit is None:
        return labelled
    return LabelledImages(
        images=labelled.images[:limit],
        classes=labelled.classes,
        layout=labelled.layout,
        problems=labelled.problems,
    )


def splits(uri: str) -> tuple[str, ...]:
    """The names of a data set's splits. Raises `UserError` where there is no data set."""
    tree = list_tree(uri)
    return _find_reader(tree).splits(tree)


def _find_reader(tree: Tree) -> _Reader:
    for reader in _READERS:
        if reader.recognises(tree):
            return reader
    raise UserError(
        tree.root,
        "no labelled images in a known layout",
        "Known are VOC (Annotations/ JPEGImages/), LabelImg (XML beside the images), COCO"
        " (annotations/*.json) and YOLO (data.yaml, images/ labels/).",
    )
