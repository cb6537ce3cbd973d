"""Reads the YAML file of a YOLO data set: class names, keypoints, and the images of each split.

Plain values are read as text, as people mean them: ``yes``, ``no``, ``on`` and ``007`` are names.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.annotations.matching import Matcher, normal
from pipeline.annotations.names import role
from pipeline.annotations.tree import Tree, composed
from pipeline.annotations.yolo_labels import is_label
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES

SUFFIXES = (".yaml", ".yml")
SPLITS = ("train", "val", "valid", "test")
_FIRST = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_EXPECTED_NAMES = "Expected a list such as names: [cat, dog]."


class _TextLoader(yaml.SafeLoader):
    """Reads every plain value as text; only the merge key ``<<`` keeps its meaning."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:merge"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The YAML file of a data set."""

    path: str
    document: dict[str, Any]


def find_settings(tree: Tree) -> str | None:
    """Return the path of the YAML file that names the classes; None if there is no YAML file at the top.

    ``data.yaml`` is always taken. Otherwise it is the file that has `names`: other tools leave files such as
    ``args.yaml`` and ``conf.yaml``.

    Raises:
        UserError: several files name classes, and differ.
    """
    top = [path for path in tree.below("", SUFFIXES) if "/" not in path]
    if not top or "data.yaml" in top:
        return "data.yaml" if top else None
    ranked = sorted(
        top, key=lambda path: (path not in _FIRST, _FIRST.index(path) if path in _FIRST else 0)
    )
    naming = [path for path in ranked if _has_names(tree, path)]
    if len(naming) > 1 and naming[0] not in _FIRST:
        names = {path: repr(load(tree, path).document.get("names")) for path in naming}
        if len(set(names.values())) > 1:
            raise UserError(
                tree.root,
                f"{' and '.join(naming[:3])} name different classes",
                "Rename the right one to data.yaml, or remove the others.",
            )
    return naming[0] if naming else ranked[0]


def _has_names(tree: Tree, path: str) -> bool:
    try:
        return "names" in load(tree, path).document
    except UserError:  # a broken file of another tool
        return False


def load(tree: Tree, path: str) -> Settings:
    """Read the YAML file. Raises `UserError`."""
    try:
        document = yaml.load(tree.read_text(path), Loader=_TextLoader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(
            tree.uri(path), f"is not readable as YAML ({error})", "Correct the file."
        ) from error
    if not isinstance(document, dict):
        raise UserError(
            tree.uri(path), "holds no settings", "Expected the settings names, train and val."
        )
    return Settings(path=path, document=document)


def class_names(settings: Settings, uri: str) -> tuple[str, ...]:
    """Read the class names."""
    names = settings.document.get("names")
    if isinstance(names, dict) and set(names) == {str(number) for number in range(len(names))}:
        names = [names[str(number)] for number in range(len(names))]
    # The error does not show the value: a few lines of YAML aliases may stand for gigabytes of text.
    if not isinstance(names, list) or not names:
        raise UserError(
            uri, "names is neither a list nor a mapping numbered from 0", _EXPECTED_NAMES
        )
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise UserError(uri, f"name {number} is not text", _EXPECTED_NAMES)
    texts = tuple(composed(name) for name in names)
    if len(set(texts)) < len(texts):
        twice = next(name for name in texts if texts.count(name) > 1)
        raise UserError(uri, f"name {twice!r} is used twice", "Give each class one number.")
    if settings.document.get("nc", str(len(texts))) != str(len(texts)):
        raise UserError(uri, f"nc is not {len(texts)}, the number of names", "Correct nc or names.")
    return texts


def keypoints(settings: Settings, uri: str) -> tuple[int, int] | None:
    """Read `kpt_shape`: keypoints of an object, and numbers of a keypoint; None if there are none."""
    shape = settings.document.get("kpt_shape")
    if shape is None:
        return None
    good = isinstance(shape, list) and len(shape) == 2 and all(str(n).isdecimal() for n in shape)
    if not good or int(shape[1]) not in (2, 3) or int(shape[0]) < 1:
        raise UserError(
            uri,
            "kpt_shape is not a number of keypoints and 2 or 3",
            "Expected kpt_shape: [17, 3], for example.",
        )
    return int(shape[0]), int(shape[1])


def images_of_entry(tree: Tree, settings: Settings, split: str) -> tuple[list[str], list[str]]:
    """List the images of a YAML entry such as `train: ...`, and the folders in it that do not exist.

    The entry names folders, lists of images, or images. They are relative to the YAML file, or to its setting
    `path`.
    """
    entry, base = settings.document.get(split), settings.document.get("path")
    images: list[str] = []
    missing: list[str] = []
    for name in entry if isinstance(entry, list) else [entry]:
        if not isinstance(name, str):
            raise UserError(
                tree.root,
                "its YAML file names a split by something that is not text",
                "Expected a folder, as in train: images/train.",
            )
        if not name.strip():
            continue
        found = _images_of_name(tree, str(base or ""), name, split)
        images += found or []
        missing += [] if found else [name]
    return sorted(set(images)), missing


def _images_of_name(tree: Tree, base: str, name: str, split: str) -> list[str]:
    # Exporters write "../train/images" for a folder beside the YAML file, and paths on their machine.
    relative = normal(name)
    for path in (relative, posixpath.normpath(posixpath.join(base, relative))):
        if (file := tree.find(path)) and file.lower().endswith(IMAGE_SUFFIXES):
            return [file]
        if file:
            return read_list(tree, file, split)
        if below := tree.images("" if path == "." else path):
            return below
    return _by_end(tree, relative, split)


def _by_end(tree: Tree, name: str, split: str) -> list[str]:
    """List the images of the folder, the list or the image that has the end of this path."""
    if name.lower().endswith((".txt", *IMAGE_SUFFIXES)):
        matcher = Matcher(tree=tree, uri=tree.root, split=split, folders=("",))
        if (file := matcher.find(name)) is None:
            return []
        return read_list(tree, file, split) if file.endswith(".txt") else [file]
    parts = name.split("/")
    for start in range(1, len(parts) - 1):  # at least two folders, because one says too little
        if below := tree.images("/".join(parts[start:])):
            return below
    return []


def lists_at_top(tree: Tree) -> dict[str, str]:
    """Map each split to its list of images: a text file at the top that is called as a split."""
    lists = {}
    for path in tree.below("", (".txt",)):
        name = posixpath.splitext(path)[0]
        if "/" not in path and role(name) and not is_label(path):
            lists[name] = path
    return lists


def read_list(tree: Tree, path: str, split: str) -> list[str]:
    """Read a text file with one image path a line. Raises `UserError` if an image does not exist."""
    lines = [line.strip() for line in tree.read_text(path).splitlines() if line.strip()]
    folders = tuple(dict.fromkeys(("", posixpath.dirname(path))))
    matcher = Matcher(tree=tree, uri=tree.uri(path), split=split, folders=folders)
    images = [matcher.find(line) for line in lines]
    matcher.require_all()
    return list(dict.fromkeys(image for image in images if image))
