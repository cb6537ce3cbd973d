"""The LabelImg format: PASCAL VOC's XML files beside the images.

train/x.xml  train/x.jpg  test/...
"""

from __future__ import annotations

import posixpath

from pipeline.annotations.labelled import Annotations, Format
from pipeline.annotations.tree import Tree
from pipeline.annotations.voc import ALL, by_name, read_all


def _looks_like(tree: Tree) -> bool:
    """Whether some XML file has an image with the same stem beside it."""
    images = tree.images_by_stem("")
    return any(posixpath.splitext(path)[0] in images for path in tree.below("", (".xml",)))


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the top folders that hold XML files. XML files outside any folder are the split `all`."""
    tops = {path.partition("/")[0] if "/" in path else ALL for path in tree.below("", (".xml",))}
    return tuple(sorted(tops))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """Read the XML files below the folder `split`, each with the image beside it."""
    folder = split if any(path.startswith(f"{split}/") for path in tree.paths) else ""
    annotations = by_name(tree.below(folder, (".xml",)), "")
    return read_all(tree, annotations, tree.images_by_stem(folder), limit)


LABELIMG = Format(
    name="labelimg",
    description="LabelImg (XML beside the images)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=False,
)
