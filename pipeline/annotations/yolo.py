"""YOLO's text files: ``class cx cy w h`` a line, all but the class as shares of the image's size.

    data.yaml: names, train/val/test     images/<split>/x.jpg  labels/<split>/x.txt
                                         <split>/images/x.jpg  <split>/labels/x.txt

An image's label file has the last `images` of its path turned to `labels`, or lies beside it where there is
none; an image without a label file shows nothing, by YOLO's own convention. A line with more numbers is a
polygon, whose bounding box is taken. Boxes need the image's size, so the images that have some are read.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.annotations.labelled import Annotations, Format, NamedBox, NamedImage, finite, some
from pipeline.annotations.tree import Tree, unique_ids
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES, ImageError, read_size
from pipeline.prefetch import in_threads

_YAML = (".yaml", ".yml")
_SPLITS = ("train", "val", "valid", "test")
_ROUNDING = 0.01
"""Shares may leave [0, 1] by this much: tools round."""


@dataclass(frozen=True, slots=True)
class _DataSet:
    names: tuple[str, ...]
    images: dict[str, list[str]]
    """Split -> paths of its images."""


def _looks_like(tree: Tree) -> bool:
    """Whether there is a yaml, or a file classes.txt, and label files."""
    labels = any("labels" in path.split("/")[:-1] for path in tree.below("", (".txt",)))
    return labels and _names_path(tree) is not None


def _splits(tree: Tree) -> tuple[str, ...]:
    """The splits that the yaml names and that have images, and those that the folders show."""
    return tuple(sorted(_open(tree).images))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    """The images of one split, the first `limit` by path."""
    data_set = _open(tree)
    paths = sorted(data_set.images[split])[:limit]
    problems: list[str] = []
    unlabelled = [path for path in paths if _label_path(path) not in tree.known]
    if unlabelled:
        problems.append(f"{tree.root}: no label file, so nothing to be seen in {some(unlabelled)}")
    taken = {_label_path(path) for path in paths}
    folders = {posixpath.dirname(path) for path in taken}
    if limit is None:
        there = [p for p in tree.below("", (".txt",)) if posixpath.dirname(p) in folders]
        orphans = [p for p in there if p not in taken and posixpath.basename(p) != "classes.txt"]
        if orphans:
            problems.append(f"{tree.root}: label files without an image, left out: {some(orphans)}")

    def read_one(item: tuple[str, str]) -> NamedImage | str:
        path, image_id = item
        try:
            return _read_image(tree, path, image_id, data_set.names)
        except ImageError as error:
            return f"{tree.uri(path)}: {error}, so its boxes have no size; image left out"

    read_images = in_threads(read_one, zip(paths, unique_ids(paths), strict=True))
    problems += [found for found in read_images if isinstance(found, str)]
    images = tuple(found for found in read_images if isinstance(found, NamedImage))
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
    """One line -> xyxy in pixels; `size` is (height, width)."""
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
            f"{' '.join(fields[1:7])} are no shares of the image",
            "Divide by its size.",
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
            "Write: class cx cy w h, or a polygon.",
        )
    if min(x1, y1) < -_ROUNDING or max(x2, y2) > 1 + _ROUNDING:
        raise UserError(
            f"{uri} ({where})",
            f"{' '.join(fields[1:7])} lies outside its image",
            "Write its centre and size as shares of the image.",
        )
    height, width = size
    pixels = (x1 * width, y1 * height, x2 * width, y2 * height)
    return NamedBox(names[int(fields[0])], pixels, where, f"[{', '.join(fields[1:7])}]")


def _label_path(image: str) -> str:
    parts = posixpath.splitext(image)[0].split("/")
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            parts[at] = "labels"
            break
    return "/".join(parts) + ".txt"


def _names_path(tree: Tree) -> str | None:
    """The yaml at the top (data.yaml before others), else classes.txt at the top or under labels/."""
    top = sorted((p != "data.yaml", p) for p in tree.below("", _YAML) if "/" not in p)
    if top:
        return top[0][1]
    return next((p for p in ("classes.txt", "labels/classes.txt") if p in tree.known), None)


def _open(tree: Tree) -> _DataSet:
    path = _names_path(tree) or ""
    if path.endswith(".txt"):
        names = tuple(line.strip() for line in tree.read_text(path).splitlines() if line.strip())
        return _DataSet(names, _folders(tree))
    try:
        document = yaml.safe_load(tree.read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(tree.uri(path), f"not readable as YAML ({error})", "Mend it.") from error
    if not isinstance(document, dict):
        raise UserError(tree.uri(path), "holds no settings", "It must have names, train and val.")
    images = _folders(tree)
    for split in _SPLITS:
        if entry := document.get(split):
            found = _entry_images(tree, document.get("path"), entry)
            if found:
                images[split] = found
    return _DataSet(_names(document, tree.uri(path)), images)


def _names(document: dict[str, Any], uri: str) -> tuple[str, ...]:
    names = document.get("names")
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    # Its values are not shown: a few lines of aliases may stand for gigabytes of text.
    if not isinstance(names, list) or not names:
        raise UserError(uri, "names are no list, nor numbered from 0", "Write names: [a, b].")
    for number, name in enumerate(names):
        if not isinstance(name, str | int | float) or not str(name).strip():
            raise UserError(uri, f"name {number} is no text", "Write names: [a, b].")
    texts = tuple(str(name) for name in names)
    if len(set(texts)) < len(texts):
        twice = next(name for name in texts if texts.count(name) > 1)
        raise UserError(uri, f"name {twice!r} is there twice", "Give each class one number.")
    if document.get("nc", len(texts)) != len(texts):
        raise UserError(uri, f"nc is not {len(texts)}, the number of names", "Mend one of them.")
    return texts


def _folders(tree: Tree) -> dict[str, list[str]]:
    """images/<split>/ and <split>/images/ -> their images; `all` where images/ has no folders."""
    found: dict[str, list[str]] = {}
    for path in tree.below("", IMAGE_SUFFIXES):
        parts = path.split("/")
        if parts[0] == "images" and len(parts) >= 2:
            found.setdefault(parts[1] if len(parts) > 2 else "all", []).append(path)
        elif len(parts) > 2 and parts[1] == "images":
            found.setdefault(parts[0], []).append(path)
    return found


def _entry_images(tree: Tree, base: Any, entry: Any) -> list[str]:
    """What `train: ...` names: folders or lists, given from where the yaml lies, or from `path`."""
    found: list[str] = []
    for name in entry if isinstance(entry, list) else [entry]:
        if not isinstance(name, str):
            raise UserError(tree.root, "its YAML names splits by no text", "Write train: folder.")
        # Exporters write "../train/images" for a folder beside the yaml, and paths of their own machine.
        plain = posixpath.normpath(str(name)).replace("\\", "/")
        while plain.startswith("../"):
            plain = plain[3:]
        for candidate in (plain, posixpath.normpath(posixpath.join(str(base or ""), plain))):
            if candidate in tree.known:
                found += _listed(tree, candidate)
                break
            if below := tree.below(candidate, IMAGE_SUFFIXES):
                found += below
                break
    return sorted(set(found))


def _listed(tree: Tree, path: str) -> list[str]:
    """The images that a text file lists, a path a line."""
    lines = [line.strip() for line in tree.read_text(path).splitlines() if line.strip()]
    images = [posixpath.normpath(line) for line in lines]
    absent = [image for image in images if image not in tree.known]
    if absent:
        raise UserError(
            tree.uri(path), f"lists images that are not there: {some(absent)}", "Mend it."
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
