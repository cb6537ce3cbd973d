"""The table of label formats. Each format is one module, and one entry in this table."""

from __future__ import annotations

from pipeline.annotations.coco import COCO
from pipeline.annotations.labelimg import LABELIMG
from pipeline.annotations.labelled import Format
from pipeline.annotations.tree import Tree
from pipeline.annotations.voc import VOC
from pipeline.annotations.yolo import YOLO
from pipeline.errors import UserError

FORMATS: tuple[Format, ...] = (
    VOC,
    YOLO,
    COCO,
    LABELIMG,
)
"""The formats in the order in which they are tried: the most specific first."""


def find_format(tree: Tree) -> Format:
    """Recognise the format of a data set by its files.

    Raises:
        UserError: the files fit none of `FORMATS`.
    """
    for format in FORMATS:
        if format.looks_like(tree):
            return format
    *others, last = (format.description for format in FORMATS)
    raise UserError(
        tree.root,
        "holds no labelled images in a known layout",
        f"Expected {', '.join(others)} or {last}.",
    )
