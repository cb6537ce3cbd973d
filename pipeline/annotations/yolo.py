"""The YOLO format of Ultralytics: label files as in `yolo_labels`, and a YAML file or a list of class names.

data.yaml: names, train/val/test     images/<split>/x.jpg  labels/<split>/x.txt
(or classes.txt: one name a line)    <split>/images/x.jpg  <split>/labels/x.txt
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from itertools import chain

from pipeline.annotations import yolo_yaml
from pipeline.annotations.labelled import Annotations, Format, first_few
from pipeline.annotations.names import ALL, role
from pipeline.annotations.tree import Tree, stem_of
from pipeline.annotations.yolo_labels import (
    IMAGE_FOLDERS,
    NAME_FILES,
    YoloSplit,
    declared,
    is_label,
    read_names,
    read_split,
)
from pipeline.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class _DataSet:
    """The classes and the images of a data set."""

    names: tuple[str, ...]
    """Class n is names[n]. A blank name is a place that no class has."""
    images: dict[str, list[str]]
    """Split -> paths of its images."""
    keypoints: tuple[int, int] | None = None
    problems: tuple[str, ...] = ()


def _looks_like(tree: Tree) -> bool:
    """Whether the data set has label files, and a YAML file or a list of class names."""
    texts = tree.below("", (".txt",))
    if any("labels" in path.lower().split("/")[:-1] for path in texts):
        return yolo_yaml.find_settings(tree) is not None or bool(_names_files(tree))
    stems = tree.images_by_stem("") if texts else {}
    if any(stem_of(path) in stems and is_label(path) for path in texts):
        settings = yolo_yaml.find_settings(tree)
        return settings is not None and "names" in yolo_yaml.load(tree, settings).document
    return False


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the splits of the YAML file that have images, and those that the folders show.

    If no folder of several is called as a split (they may be cameras or days), `all` means all of them.
    """
    images = _read_data_set(tree).images
    several = len(images) > 1 and not any(map(role, images))
    return tuple(sorted({*images, ALL} if several else images))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """Read one split; only the first `limit` images by path."""
    data_set = _read_data_set(tree)
    wanted = YoloSplit(
        images=data_set.images.get(split) or list(chain(*data_set.images.values())),
        names=declared(data_set.names),
        names_of=lambda label: data_set.names,
        keypoints=data_set.keypoints,
        problems=data_set.problems,
    )
    return read_split(tree, wanted, limit)


def _names_files(tree: Tree) -> list[str]:
    """List the files of class names: at the top, in labels/, or in its folders."""
    files = [p for p in tree.below("", (".txt", ".names", ".labels")) if _is_names(p)]
    return sorted(files, key=lambda path: (path.count("/"), path))


def _is_names(path: str) -> bool:
    folder, name = posixpath.split(path)
    return name in NAME_FILES and (
        not folder or folder.lower().split("/")[0] == "labels" or "/" not in folder
    )


def _read_data_set(tree: Tree) -> _DataSet:
    """Read the YAML file or the list of class names, and list the images of each split."""
    images = _images_by_folder(tree)
    path = yolo_yaml.find_settings(tree)
    if path is None:
        if not any(map(role, images)):
            images = _images_by_list(tree) or images
        return _DataSet(names=_names_of_files(tree), images=images)
    settings, uri = yolo_yaml.load(tree, path), tree.uri(path)
    problems = []
    named: set[str] = set()
    for split in yolo_yaml.SPLITS:
        if not settings.document.get(split):
            continue
        listed, missing = yolo_yaml.images_of_entry(tree, settings, split)
        if listed:
            images[split] = listed
            named.update(listed)
        if missing and split not in images:
            problems.append(
                f"{uri}: {split}: {first_few(missing)} names no image. The data set has images for"
                f" {', '.join(sorted(images)) or 'no split'}"
            )
    for split in [s for s in images if s not in yolo_yaml.SPLITS and role(s) is None]:
        if named.issuperset(images[split]):  # a subfolder of a split, not a split
            del images[split]
    return _DataSet(
        names=yolo_yaml.class_names(settings, uri),
        images=images,
        keypoints=yolo_yaml.keypoints(settings, uri),
        problems=tuple(problems),
    )


def _names_of_files(tree: Tree) -> tuple[str, ...]:
    """Read the class names from text files. Raises `UserError` if two files differ."""
    files = _names_files(tree)
    names = {path: read_names(tree, path) for path in files}
    first = names[files[0]]
    different = [path for path in files if names[path] != first]
    if different and posixpath.dirname(files[0]):
        raise UserError(
            tree.uri(different[0]),
            f"names other classes than {files[0]}",
            "Make both files equal, or write one classes.txt at the top of the data set.",
        )
    return first


def _images_by_list(tree: Tree) -> dict[str, list[str]]:
    """Map each split to the images in its list at the top, such as train.txt."""
    lists = yolo_yaml.lists_at_top(tree)
    return {split: yolo_yaml.read_list(tree, path, split) for split, path in lists.items()}


def _images_by_folder(tree: Tree) -> dict[str, list[str]]:
    """Map each split to the images in images/<split>/ or <split>/images/.

    Images that lie directly in images/ are the split `all`.
    """
    images: dict[str, list[str]] = {}
    for path in tree.images():
        parts = path.split("/")
        if parts[0].lower() in IMAGE_FOLDERS and len(parts) >= 2:
            images.setdefault(parts[1] if len(parts) > 2 else ALL, []).append(path)
        elif len(parts) > 2 and parts[1].lower() in IMAGE_FOLDERS:
            images.setdefault(parts[0], []).append(path)
    return images


YOLO = Format(
    name="yolo",
    description="YOLO (data.yaml, images/ labels/)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=True,
)
