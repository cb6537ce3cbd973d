"""YOLO label files beside the images, as LabelImg, Roboflow and darknet write them.

classes.txt  x.jpg  x.txt     or with folders: train/classes.txt  train/x.jpg  train/x.txt  val/...
train.txt, val.txt            lists of images at the top name the splits, if there are any
"""

from __future__ import annotations

import posixpath

from pipeline.annotations.labelimg import top_folders
from pipeline.annotations.labelled import Annotations, Format
from pipeline.annotations.names import role
from pipeline.annotations.tree import Tree, stem_of
from pipeline.annotations.yolo_labels import (
    NAME_FILES,
    YoloSplit,
    declared,
    is_label,
    names_beside,
    read_names,
    read_split,
)
from pipeline.annotations.yolo_yaml import lists_at_top, read_list


def _looks_like(tree: Tree) -> bool:
    """Whether some text file has an image with the same stem beside it, and there is a list of classes."""
    texts = tree.below("", (".txt",))
    if not texts or not _names_files(tree):
        return False
    images = tree.images_by_stem("")
    return any(stem_of(path) in images and is_label(path) for path in texts)


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the splits: lists of images at the top, else the folders. Files at the top are the split `all`."""
    return tuple(sorted(lists_at_top(tree))) or top_folders(_labelled(tree))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    files = {posixpath.dirname(path): read_names(tree, path) for path in _names_files(tree)}
    lists = lists_at_top(tree)
    if split in lists:
        images = read_list(tree, lists[split], split)
    else:
        folder = split if split in tree.folders else ""
        images = [path for path in tree.images() if not folder or path.startswith(f"{folder}/")]
    in_order = sorted(files, key=lambda folder: (role(folder) != "train", folder))
    wanted = YoloSplit(
        images=images,
        names=declared(*(files[folder] for folder in in_order)),
        names_of=lambda label: names_beside(tree, label, files),
    )
    return read_split(tree, wanted, limit)


def _labelled(tree: Tree) -> list[str]:
    images = tree.images_by_stem("")
    return [p for p in tree.below("", (".txt",)) if is_label(p) and stem_of(p) in images]


def _names_files(tree: Tree) -> list[str]:
    return [p for p in tree.below("", (".txt", ".names", ".labels")) if _is_names(p)]


def _is_names(path: str) -> bool:
    return posixpath.basename(path) in NAME_FILES or path.endswith(".names")


LABELIMG_YOLO = Format(
    name="labelimg_yolo",
    description="LabelImg in YOLO mode (x.txt and classes.txt beside the images)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=True,
)
