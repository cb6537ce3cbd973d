"""The LabelImg format: PASCAL VOC's XML files beside the images.

train/x.xml  train/x.jpg  test/...
"""

from __future__ import annotations

from pipeline.annotations.labelled import Annotations, Format
from pipeline.annotations.names import ALL, role
from pipeline.annotations.tree import Tree, stem_of
from pipeline.annotations.voc import paths_by_name, read_all_pairs


def _looks_like(tree: Tree) -> bool:
    """Whether some XML file has an image with the same stem beside it."""
    images = tree.images_by_stem("")
    return any(stem_of(path) in images for path in tree.below("", (".xml",)))


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the top folders that hold XML files, as `top_folders` does."""
    return top_folders(tree.below("", (".xml",)))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """Read the XML files below the folder `split`, each with the image beside it."""
    folder = split if split in tree.folders else ""
    annotations = paths_by_name(tree.below(folder, (".xml",)), "")
    return read_all_pairs(tree, annotations, tree.images_by_stem(folder), limit)


def top_folders(paths: list[str]) -> tuple[str, ...]:
    """List the top folders of these files, sorted; files outside any folder are the split `all`.

    If no folder of several is called as a split (they may be classes or days), `all` means all files too.
    """
    folders = {path.partition("/")[0] if "/" in path else ALL for path in paths}
    several = len(folders) > 1 and not any(map(role, folders))
    return tuple(sorted({*folders, ALL} if several else folders))


LABELIMG = Format(
    name="labelimg",
    description="LabelImg (XML beside the images)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=False,
)
