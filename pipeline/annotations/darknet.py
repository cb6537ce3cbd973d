"""Darknet's YOLO format, which CVAT exports as "YOLO 1.1": label files beside the images, and lists.

data/obj.data: train, valid, names   data/obj.names   data/train.txt   data/obj/x.jpg  data/obj/x.txt
obj.data  obj.names  train.txt       obj_train_data/x.jpg  obj_train_data/x.txt
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

from pipeline.annotations.labelled import Annotations, Format
from pipeline.annotations.matching import Matcher
from pipeline.annotations.tree import Tree
from pipeline.annotations.yolo_labels import YoloSplit, declared, read_names, read_split
from pipeline.annotations.yolo_yaml import read_list
from pipeline.errors import UserError

_SETTING = re.compile(r"\s*([A-Za-z_]+)\s*=\s*(.*?)\s*")


class _Settings(NamedTuple):
    path: str
    values: dict[str, str]


def _looks_like(tree: Tree) -> bool:
    """Whether a file ``*.data`` names lists of images and of classes."""
    return bool(_settings(tree))


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the entries of the ``.data`` file whose lists of images exist."""
    settings = _the_settings(tree)
    return tuple(
        sorted(name for name in ("train", "valid", "test") if _list_of(tree, settings, name))
    )


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    settings = _the_settings(tree)
    path = _list_of(tree, settings, split) or ""
    names = read_names(tree, _names_path(tree, settings))
    wanted = YoloSplit(
        images=read_list(tree, path, split), names=declared(names), names_of=lambda label: names
    )
    return read_split(tree, wanted, limit)


def _settings(tree: Tree) -> list[_Settings]:
    """Read the files ``*.data`` that name classes and images."""
    found = []
    for path in tree.below("", (".data",)):
        if path.count("/") > 1 or (tree.objects[path].size or 0) > 10_000:
            continue
        lines = map(_SETTING.fullmatch, tree.read_text(path).splitlines())
        values = {match[1].lower(): match[2] for match in lines if match}
        if "names" in values and values.keys() & {"train", "valid", "test"}:
            found.append(_Settings(path, values))
    return found


def _the_settings(tree: Tree) -> _Settings:
    settings = _settings(tree)
    if len(settings) > 1:
        raise UserError(
            tree.root,
            f"{' and '.join(one.path for one in settings[:3])} each describe a data set",
            "Keep one of them.",
        )
    return settings[0]


def _list_of(tree: Tree, settings: _Settings, split: str) -> str | None:
    """Return the path of the list of images of a split; None if the list does not exist."""
    name = settings.values.get(split)
    return _find(tree, settings, name, split) if name else None


def _names_path(tree: Tree, settings: _Settings) -> str:
    name = settings.values["names"]
    path = _find(tree, settings, name, "")
    if path is None:
        raise UserError(
            tree.uri(settings.path),
            f"names = {name}: there is no such file",
            "Add the file with one class name a line, or correct its path.",
        )
    return path


def _find(tree: Tree, settings: _Settings, name: str, split: str) -> str | None:
    folders = tuple(dict.fromkeys(("", posixpath.dirname(settings.path))))
    return Matcher(tree=tree, uri=tree.uri(settings.path), split=split, folders=folders).find(name)


DARKNET = Format(
    name="darknet",
    description="darknet and CVAT's YOLO 1.1 (obj.data, obj.names, train.txt)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=True,
)
