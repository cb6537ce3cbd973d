"""Reads YOLO's label files: one text file an image, with one line ``class cx cy w h`` a box.

All numbers but the class are shares of the image's width or height. The label file has the path of its image
with a folder `images` (or `JPEGImages`) replaced by `labels`; otherwise it lies beside the image. An image
without a label file has no objects: that is YOLO's convention. A line with more numbers is a polygon, and its
bounding box is taken; if the data set has keypoints, the first four numbers are the box. Pixels need the size
of the image, so every image with boxes is read.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.annotations.labelled import (
    Annotations,
    BadLabel,
    NamedBox,
    NamedImage,
    finite,
    first_few,
    good_and_bad,
    label_error,
)
from pipeline.annotations.tree import Tree, composed, read_many, unique_ids
from pipeline.errors import UserError
from pipeline.images import ImageError, read_size

_ROUNDING = 0.01
"""Shares may leave [0, 1] by this much: tools round."""
IMAGE_FOLDERS = ("images", "jpegimages", "imgs", "img")
"""Names of a folder of images that has a folder `labels` beside it, in small letters."""
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "predefined_classes.txt")
"""Text files with one class name a line, as LabelImg, darknet, CVAT and Roboflow call them."""
_NO_LABELS = re.compile(
    r"read.?me|licen[cs]e|notes|train|val|valid|validation|test|trainval|autosplit_.*"
)


@dataclass(frozen=True, kw_only=True)
class YoloSplit:
    """The images of one split, and how to read their label files."""

    images: Sequence[str]
    """Paths of the images."""
    names: tuple[str, ...]
    """The classes of the data set."""
    names_of: Callable[[str], tuple[str, ...]]
    """Gives the names that the class numbers in a label file mean."""
    keypoints: tuple[int, int] | None = None
    """Keypoints of an object, and numbers of a keypoint: 2, or 3 with visibility. None: no keypoints."""
    problems: tuple[str, ...] = ()


def read_split(tree: Tree, split: YoloSplit, limit: int | None) -> Annotations:
    """Read the label files of one split; only the first `limit` images by path."""
    paths = sorted(split.images)[:limit]
    labels = {path: label_path(tree, path) for path in paths}
    problems = [*split.problems, *_problems(tree, labels, whole=limit is None)]

    def read_one(item: tuple[str, str]) -> NamedImage | str:
        path, image_id = item
        try:
            return _read_image(tree, path, labels[path], image_id, split)
        except ImageError as error:
            return f"{tree.uri(path)}: {error}, so the size of its boxes is unknown; image left out"

    results = read_many(tree, read_one, list(zip(paths, unique_ids(paths), strict=True)))
    problems += [result for result in results if isinstance(result, str)]
    images = tuple(result for result in results if isinstance(result, NamedImage))
    return Annotations(
        images, split.names, tuple(problems), unlabelled=_unlabelled(tree, split.images)
    )


def _unlabelled(tree: Tree, images: Sequence[str]) -> UserError | None:
    """Return the error for a split in which no image has a label file; None if one has."""
    if not images or any(label_path(tree, path) in tree.objects for path in images):
        return None
    labels = [path for path in tree.below("", (".txt",)) if is_label(path)]
    seen = f"has these: {first_few(labels, 3)}" if labels else "has no label files"
    return UserError(
        tree.root,
        f"none of the {len(images)} images of this split has a label file. {images[0]} would have"
        f" {label_path(tree, images[0])}, but the data set {seen}",
        "Give each label file the path and the name of its image: labels/x/a.txt for images/x/a.jpg.",
    )


def _problems(tree: Tree, labels: Mapping[str, str], *, whole: bool) -> list[str]:
    """Report images without a label file, label files without an image, and label files for two images."""
    problems = []
    unlabelled = [path for path, label in labels.items() if label not in tree.objects]
    if unlabelled:
        problems.append(
            f"{tree.root}: images without a label file, read as images without objects: "
            + first_few(unlabelled)
        )
    images: dict[str, list[str]] = {}
    for path, label in labels.items():
        images.setdefault(label, []).append(path)
    shared = [
        " and ".join(p) for label, p in images.items() if len(p) > 1 and label in tree.objects
    ]
    if shared:
        problems.append(f"{tree.root}: images that share one label file: {first_few(shared)}")
    folders = {posixpath.dirname(label) for label in images}
    orphans = [p for p in tree.below("", (".txt",)) if posixpath.dirname(p) in folders]
    orphans = [p for p in orphans if p not in images and is_label(p)]
    if orphans and whole:
        problems.append(
            f"{tree.root}: label files without an image, left out: {first_few(orphans)}"
        )
    return problems


def is_label(path: str) -> bool:
    """Whether a text file can be a label file, by its name: not a list of classes or of images."""
    name = posixpath.basename(path)
    return name not in NAME_FILES and not _NO_LABELS.fullmatch(posixpath.splitext(name)[0].lower())


def label_path(tree: Tree, image: str) -> str:
    """Return the path of an image's label file; if there is none, the path that it would have."""
    candidates = list(_label_paths(image))
    found = (tree.find(path) for path in candidates)
    return next((path for path in found if path), candidates[0])


def _label_paths(image: str) -> list[str]:
    """List the paths that the label file of an image may have; the module docstring has the rule."""
    parts = posixpath.splitext(image)[0].split("/")
    places = [at for at in range(len(parts) - 2, -1, -1) if parts[at].lower() in IMAGE_FOLDERS]
    paths = ["/".join([*parts[:at], "labels", *parts[at + 1 :]]) + ".txt" for at in places]
    return [*paths, "/".join(parts) + ".txt"]


def _read_image(tree: Tree, path: str, label: str, image_id: str, split: YoloSplit) -> NamedImage:
    uri = tree.uri(label)
    try:
        text = tree.read_text(label) if label in tree.objects else ""
    except UserError as error:
        bad = BadLabel(uri, "", error)
        return NamedImage(tree.uri(path), uri, image_id, (), bad=(bad,), unreadable=True)
    lines = [(n, line.split()) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        return NamedImage(tree.uri(path), uri, image_id, ())
    size = read_size(tree.read(path))
    names = split.names_of(label)
    boxes, bad_labels = good_and_bad(
        lambda fields, where: _box(fields, where, names, size, uri, split.keypoints),
        ((f"line {n}", fields) for n, fields in lines),
        uri,
    )
    return NamedImage(tree.uri(path), uri, image_id, boxes, size, bad_labels)


def _box(
    fields: list[str],
    where: str,
    names: tuple[str, ...],
    size: tuple[int, int],
    uri: str,
    keypoints: tuple[int, int] | None,
) -> NamedBox:
    """Turn the fields of one line into a box, xyxy in pixels. `size` is (height, width)."""
    shares = [finite(field, f"{uri} ({where})") for field in fields[1:]]
    if keypoints is not None:
        shares = _without_keypoints(shares, keypoints, f"{uri} ({where})")
    if len(shares) == 4:
        cx, cy, w, h = shares
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    elif len(shares) >= 6 and len(shares) % 2 == 0:
        x1, y1, x2, y2 = min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2])
    else:
        raise UserError(
            f"{uri} ({where})",
            f"has {len(fields)} numbers",
            "Expected class cx cy w h, with spaces between, or class and the corners of a polygon.",
        )
    height, width = size
    pixels = (x1 * width, y1 * height, x2 * width, y2 * height)
    box = NamedBox("", pixels, where, f"[{', '.join(fields[1:7])}]")
    box = replace(box, name=_name(fields[0], names, f"{uri} ({where})", box))
    if any(not -_ROUNDING <= share <= 1 + _ROUNDING for share in shares):
        raise label_error(
            box,
            f"{uri} ({where})",
            f"{' '.join(fields[1:7])} are not shares of the image's size, from 0 to 1",
            "Divide pixels by the width or height of the image.",
        )
    if min(x1, y1) < -_ROUNDING or max(x2, y2) > 1 + _ROUNDING:
        raise label_error(
            box,
            f"{uri} ({where})",
            f"{' '.join(fields[1:7])} lies outside its image",
            "Write the centre and the size of the box as shares of the image's size.",
        )
    return box


def _name(field: str, names: tuple[str, ...], where: str, box: NamedBox) -> str:
    """Return the class that a number means. `box` is the label without its class."""
    if not re.fullmatch("[0-9]{1,6}", field) or int(field) >= len(names):
        from_1 = " If the files count classes from 1, write a first name that no class has."
        raise label_error(
            box,
            where,
            f"class {field[:40]!r} is not a number from 0 to {len(names) - 1}",
            f"The classes are {', '.join(names)}.{from_1 if field == str(len(names)) else ''}",
        )
    if not (name := names[int(field)]):
        raise label_error(
            box,
            where,
            f"class {field} is a blank line in the list of classes",
            "Write a name into that line, or remove the box.",
        )
    return name


def _without_keypoints(shares: list[float], keypoints: tuple[int, int], where: str) -> list[float]:
    """Return the box of a pose: the first four numbers.

    Raises:
        UserError: the line has another number of keypoints.
    """
    num_points, num_values = keypoints
    expected = 4 + num_points * num_values
    if len(shares) not in (4, expected):
        raise UserError(
            where,
            f"has {len(shares)} numbers after the class",
            f"Expected 4 for the box and {num_points} x {num_values} for the keypoints (kpt_shape).",
        )
    return shares[:4]


def read_names(tree: Tree, path: str) -> tuple[str, ...]:
    """Read class names from a text file, one a line. A blank line holds a place: its name is empty.

    Raises:
        UserError: there is no name, or one stands there twice.
    """
    names = [composed(line.strip()) for line in tree.read_text(path).splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UserError(tree.uri(path), "names no class", "Write one name a line.")
    given = [name for name in names if name]
    if len(set(given)) < len(given):
        twice = next(name for name in given if given.count(name) > 1)
        raise UserError(
            tree.uri(path), f"name {twice!r} is used twice", "Give each class one number."
        )
    return tuple(names)


def declared(*lists: Sequence[str]) -> tuple[str, ...]:
    """Join lists of class names to the classes of a data set: each once, without blank places."""
    return tuple(dict.fromkeys(name for names in lists for name in names if name))


def names_beside(tree: Tree, label: str, files: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names for one label file: those in the nearest folder above it that has a list of names.

    Args:
        files: folder -> the names in its list.

    Raises:
        UserError: no folder above it has one.
    """
    folder = posixpath.dirname(label)
    while folder not in files:
        if not folder:
            raise UserError(
                tree.uri(label),
                "has no list of class names beside it or above it",
                "Add classes.txt with one name a line.",
            )
        folder = posixpath.dirname(folder)
    return files[folder]
