"""The YOLO format: one text file an image, with one line ``class cx cy w h`` a box.

    data.yaml: names, train/val/test     images/<split>/x.jpg  labels/<split>/x.txt
                                         <split>/images/x.jpg  <split>/labels/x.txt

All numbers but the class are shares of the image's width or height. The path of a label file is the path of
its image with the last folder `images` replaced by `labels`; without such a folder it lies beside the image.
An image without a label file has no objects: that is YOLO's convention. A line with more numbers is a
polygon, and its bounding box is taken. Pixels need the size of the image, so every image with boxes is read.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.annotations.labelled import (
    Annotations,
    Format,
    NamedBox,
    NamedImage,
    finite,
    first_few,
)
from pipeline.annotations.tree import Tree, unique_ids
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES, ImageError, read_size
from pipeline.runtime.prefetch import in_threads

_YAML = (".yaml", ".yml")
_SPLITS = ("train", "val", "valid", "test")
_ROUNDING = 0.01
"""Shares may leave [0, 1] by this much: tools round."""


@dataclass(frozen=True, slots=True)
class _DataSet:
    """The classes and the images of a data set."""

    names: tuple[str, ...]
    """Class n is names[n]."""
    images: dict[str, list[str]]
    """Split -> paths of its images."""


def _looks_like(tree: Tree) -> bool:
    """Whether the data set has label files, and a YAML file or a classes.txt."""
    labels = any("labels" in path.split("/")[:-1] for path in tree.below("", (".txt",)))
    return labels and _names_path(tree) is not None


def _splits(tree: Tree) -> tuple[str, ...]:
    """List the splits of the YAML file that have images, and those that the folders show."""
    return tuple(sorted(_open(tree).images))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """Read one split; only the first `limit` images by path."""
    data_set = _open(tree)
    paths = sorted(data_set.images[split])[:limit]
    problems: list[str] = []
    unlabelled = [path for path in paths if _label_path(path) not in tree.known]
    if unlabelled:
        problems.append(
            f"{tree.root}: images without a label file, read as images without objects: "
            + first_few(unlabelled)
        )
    expected = {_label_path(path) for path in paths}
    folders = {posixpath.dirname(path) for path in expected}
    if limit is None:
        labels = [p for p in tree.below("", (".txt",)) if posixpath.dirname(p) in folders]
        orphans = [
            p for p in labels if p not in expected and posixpath.basename(p) != "classes.txt"
        ]
        if orphans:
            problems.append(
                f"{tree.root}: label files without an image, left out: {first_few(orphans)}"
            )

    def read_one(item: tuple[str, str]) -> NamedImage | str:
        path, image_id = item
        try:
            return _read_image(tree, path, image_id, data_set.names)
        except ImageError as error:
            return f"{tree.uri(path)}: {error}, so the size of its boxes is unknown; image left out"

    results = in_threads(read_one, zip(paths, unique_ids(paths), strict=True))
    problems += [result for result in results if isinstance(result, str)]
    images = tuple(result for result in results if isinstance(result, NamedImage))
    return Annotations(images, data_set.names, tuple(problems))


def _read_image(tree: Tree, path: str, image_id: str, names: tuple[str, ...]) -> NamedImage:
    label = _label_path(path)
    text = tree.read_text(label) if label in tree.known else ""
    lines = [(n, line.split()) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    boxes: tuple[NamedBox, ...] = ()
    size = None
    if lines:
        size = read_size(tree.read(path))
        boxes = tuple(
            _box(fields, f"line {n}", names, size, tree.uri(label)) for n, fields in lines
        )
    return NamedImage(tree.uri(path), tree.uri(label), image_id, boxes, size)


def _box(
    fields: list[str], where: str, names: tuple[str, ...], size: tuple[int, int], uri: str
) -> NamedBox:
    """Turn the fields of one line into a box, xyxy in pixels. `size` is (height, width)."""
    if not re.fullmatch("[0-9]{1,6}", fields[0]) or int(fields[0]) >= len(names):
        raise UserError(
            f"{uri} ({where})",
            f"class {fields[0][:40]!r} is not a number from 0 to {len(names) - 1}",
            f"The classes are {', '.join(names)}.",
        )
    shares = [finite(field, f"{uri} ({where})") for field in fields[1:]]
    if any(not -_ROUNDING <= share <= 1 + _ROUNDING for share in shares):
        raise UserError(
            f"{uri} ({where})",
            f"{' '.join(fields[1:7])} are not shares of the image's size, from 0 to 1",
            "Divide pixels by the width or height of the image.",
        )
    if len(shares) == 4:
        cx, cy, w, h = shares
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    elif len(shares) >= 6 and len(shares) % 2 == 0:
        x1, y1, x2, y2 = min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2])
    else:
        raise UserError(
            f"{uri} ({where})",
            f"has {len(fields)} numbers",
            "Expected class cx cy w h, or class and the corners of a polygon.",
        )
    if min(x1, y1) < -_ROUNDING or max(x2, y2) > 1 + _ROUNDING:
        raise UserError(
            f"{uri} ({where})",
            f"{' '.join(fields[1:7])} lies outside its image",
            "Write the centre and the size of the box as shares of the image's size.",
        )
    height, width = size
    pixels = (x1 * width, y1 * height, x2 * width, y2 * height)
    return NamedBox(names[int(fields[0])], pixels, where, f"[{', '.join(fields[1:7])}]")


def _label_path(image: str) -> str:
    """Return the path of an image's label file; the module docstring has the rule."""
    parts = posixpath.splitext(image)[0].split("/")
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            parts[at] = "labels"
            break
    return "/".join(parts) + ".txt"


def _names_path(tree: Tree) -> str | None:
    """Return the YAML file at the top, data.yaml first; else classes.txt at the top or in labels/."""
    top = sorted((p != "data.yaml", p) for p in tree.below("", _YAML) if "/" not in p)
    if top:
        return top[0][1]
    return next((p for p in ("classes.txt", "labels/classes.txt") if p in tree.known), None)


def _open(tree: Tree) -> _DataSet:
    """Read the YAML file or classes.txt, and list the images of each split."""
    path = _names_path(tree) or ""
    if path.endswith(".txt"):
        names = tuple(line.strip() for line in tree.read_text(path).splitlines() if line.strip())
        return _DataSet(names, _images_by_folder(tree))
    try:
        document = yaml.safe_load(tree.read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(
            tree.uri(path), f"is not readable as YAML ({error})", "Correct the file."
        ) from error
    if not isinstance(document, dict):
        raise UserError(
            tree.uri(path), "holds no settings", "Expected the settings names, train and val."
        )
    images = _images_by_folder(tree)
    for split in _SPLITS:
        if entry := document.get(split):
            listed = _images_of_entry(tree, document.get("path"), entry)
            if listed:
                images[split] = listed
    return _DataSet(_names(document, tree.uri(path)), images)


def _names(document: dict[str, Any], uri: str) -> tuple[str, ...]:
    """Read the class names from the YAML settings."""
    names = document.get("names")
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    # The error does not show the value: a few lines of YAML aliases may stand for gigabytes of text.
    expected = "Expected a list such as names: [cat, dog]."
    if not isinstance(names, list) or not names:
        raise UserError(uri, "names is neither a list nor a mapping numbered from 0", expected)
    for number, name in enumerate(names):
        if not isinstance(name, str | int | float) or not str(name).strip():
            raise UserError(uri, f"name {number} is not text", expected)
    texts = tuple(str(name) for name in names)
    if len(set(texts)) < len(texts):
        twice = next(name for name in texts if texts.count(name) > 1)
        raise UserError(uri, f"name {twice!r} is used twice", "Give each class one number.")
    if document.get("nc", len(texts)) != len(texts):
        raise UserError(uri, f"nc is not {len(texts)}, the number of names", "Correct nc or names.")
    return texts


def _images_by_folder(tree: Tree) -> dict[str, list[str]]:
    """Map each split to the images in images/<split>/ or <split>/images/.

    Images that lie directly in images/ are the split `all`.
    """
    images: dict[str, list[str]] = {}
    for path in tree.below("", IMAGE_SUFFIXES):
        parts = path.split("/")
        if parts[0] == "images" and len(parts) >= 2:
            images.setdefault(parts[1] if len(parts) > 2 else "all", []).append(path)
        elif len(parts) > 2 and parts[1] == "images":
            images.setdefault(parts[0], []).append(path)
    return images


def _images_of_entry(tree: Tree, base: Any, entry: Any) -> list[str]:
    """List the images of a YAML entry such as `train: ...`.

    The entry names folders or lists of images. They are relative to the YAML file, or to its setting `path`.
    """
    images: list[str] = []
    for name in entry if isinstance(entry, list) else [entry]:
        if not isinstance(name, str):
            raise UserError(
                tree.root,
                "its YAML file names a split by something that is not text",
                "Expected a folder, as in train: images/train.",
            )
        # Exporters write "../train/images" for a folder beside the YAML file, and paths on their machine.
        plain = posixpath.normpath(str(name)).replace("\\", "/")
        while plain.startswith("../"):
            plain = plain[3:]
        for path in (plain, posixpath.normpath(posixpath.join(str(base or ""), plain))):
            if path in tree.known:
                images += _read_list(tree, path)
                break
            if below := tree.below(path, IMAGE_SUFFIXES):
                images += below
                break
    return sorted(set(images))


def _read_list(tree: Tree, path: str) -> list[str]:
    """Read a text file with one image path a line."""
    lines = [line.strip() for line in tree.read_text(path).splitlines() if line.strip()]
    images = [posixpath.normpath(line) for line in lines]
    absent = [image for image in images if image not in tree.known]
    if absent:
        raise UserError(
            tree.uri(path),
            f"lists images that do not exist: {first_few(absent)}",
            "Add the images, or remove them from the list.",
        )
    return images


YOLO = Format(
    name="yolo",
    description="YOLO (data.yaml, images/ labels/)",
    looks_like=_looks_like,
    splits=_splits,
    read=_read,
    declares_classes=True,
)
