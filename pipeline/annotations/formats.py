"""The table of label formats. Each format is one module, and one entry in this table."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.annotations.coco import COCO
from pipeline.annotations.csv_boxes import CSV
from pipeline.annotations.darknet import DARKNET
from pipeline.annotations.hugging_face import HUGGING_FACE
from pipeline.annotations.labelimg import LABELIMG
from pipeline.annotations.labelimg_yolo import LABELIMG_YOLO
from pipeline.annotations.labelled import Format
from pipeline.annotations.names import role
from pipeline.annotations.open_images import OPEN_IMAGES
from pipeline.annotations.tree import Tree
from pipeline.annotations.unknown import several_data_sets, unknown_layout
from pipeline.annotations.voc import VOC
from pipeline.annotations.webdataset import WEBDATASET
from pipeline.annotations.yolo import YOLO

FORMATS: tuple[Format, ...] = (
    HUGGING_FACE,
    VOC,
    DARKNET,
    YOLO,
    WEBDATASET,
    COCO,
    LABELIMG,
    OPEN_IMAGES,
    CSV,
    LABELIMG_YOLO,
)
"""The formats in the order in which they are tried: the most specific first."""
_DEEPEST = 5
"""Folders that may lie around a data set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set whose format is known."""

    tree: Tree
    format: Format
    around: str = ""
    """The folder around the data set, as archives unpack; empty if there is none."""


def find_data_set(tree: Tree) -> DataSet:
    """Recognise the format of a data set by its files, also inside the only folder of `tree`.

    Raises:
        UserError: the files fit none of `FORMATS`, or there are several data sets.
    """
    inner, around = tree, ""
    for _ in range(_DEEPEST):
        folder = inner.only_folder
        if folder is None or role(folder) is not None:
            break
        inner, around = inner.under(folder), f"{around}/{folder}".lstrip("/")
    for candidate, name in ((inner, around), (tree, "")):
        if format := find_format(candidate):
            return DataSet(tree=candidate, format=format, around=name)
    return _in_a_folder(tree, inner, around)


def find_format(tree: Tree) -> Format | None:
    """Recognise the format of a data set by its files; None if they fit none of `FORMATS`."""
    return next((format for format in FORMATS if format.looks_like(tree)), None)


def _in_a_folder(whole: Tree, tree: Tree, around: str) -> DataSet:
    """Look for one data set among the folders of `tree`; other folders hold notes, programs or models.

    Args:
        whole: everything, for the message.
    """
    found = {}
    for folder in tree.folders[:20]:
        inner = tree.under(folder)
        if format := find_format(inner):
            found[folder] = DataSet(
                tree=inner, format=format, around=f"{around}/{folder}".lstrip("/")
            )
    if len(found) > 1:
        raise several_data_sets(tree, tuple(found))
    if not found:
        raise unknown_layout(whole, [format.description for format in FORMATS])
    return next(iter(found.values()))
