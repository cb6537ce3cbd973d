"""The tables of Open Images: one line a box, in shares of the image's size.

    train-annotations-bbox.csv: ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,...,IsGroupOf
    class-descriptions-boxable.csv: /m/01g317,Person        train/<ImageID>.jpg (or FiftyOne's train/data/)

Images of the table that are not there are left out and counted, because most people download a part. Boxes
around groups of objects are crowds.
"""

from __future__ import annotations

import csv
import posixpath

from pipeline.annotations.labelled import (
    Annotations,
    Format,
    NamedBox,
    NamedImage,
    finite,
    first_few,
    good_and_bad,
    label_error,
)
from pipeline.annotations.names import role, role_of_path, roles_differ
from pipeline.annotations.table import TableKind, rows
from pipeline.annotations.tree import Tree, only_image, read_many, stem_of, unique_ids
from pipeline.images import ImageError, read_size

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_COLUMNS = {
    "image": ("imageid",),
    "class": ("labelname",),
    **{edge: (edge,) for edge in _EDGES},
    "source": ("source", "confidence"),
    "group": ("isgroupof",),
}
_TABLES = TableKind(meanings=_COLUMNS, optional=("group",))


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    table = _TABLES.find(tree)[split]
    uri, names = tree.uri(table.path), _class_names(tree)
    images = _images(tree, split)
    boxes: dict[str, list[tuple[str, dict[str, str]]]] = {}
    absent: dict[str, None] = {}
    for place, values in rows(tree, table):
        if values["image"] in images:
            path = only_image(tree, images[values["image"]])
            boxes.setdefault(path, []).append((place, values))
        else:
            absent[values["image"]] = None
    problems = []
    if absent:
        problems.append(f"{uri}: images that are not here, left out: {first_few(list(absent))}")
    paths = sorted(boxes)[:limit]

    def read_one(item: tuple[str, str]) -> NamedImage | str:
        path, image_id = item
        try:
            size = read_size(tree.read(path))
        except ImageError as error:
            return f"{tree.uri(path)}: {error}, so the size of its boxes is unknown; image left out"
        found, bad = good_and_bad(
            lambda values, place: _box(values, place, size, names, uri), boxes[path], uri
        )
        return NamedImage(tree.uri(path), uri, image_id, found, size, bad)

    results = read_many(tree, read_one, list(zip(paths, unique_ids(paths), strict=True)))
    problems += [result for result in results if isinstance(result, str)]
    kept = tuple(result for result in results if isinstance(result, NamedImage))
    return Annotations(kept, None, tuple(problems))


def _images(tree: Tree, split: str) -> dict[str, list[str]]:
    """Map each stem to the images with it that can be of this split."""
    images: dict[str, list[str]] = {}
    for path in tree.images():
        if not roles_differ(role_of_path(path), role(split)):
            images.setdefault(posixpath.basename(stem_of(path)), []).append(path)
    return images


def _class_names(tree: Tree) -> dict[str, str]:
    """Map codes such as /m/01g317 to names, from the tables without a head that list them."""
    names: dict[str, str] = {}
    for path in tree.below("", (".csv",)):
        if tree.read_line(path).startswith("/m/"):
            for fields in csv.reader(tree.read_text(path).splitlines()):
                if len(fields) >= 2:
                    names[fields[0]] = fields[1].strip()
    return names


def _box(
    values: dict[str, str], place: str, size: tuple[int, int], names: dict[str, str], uri: str
) -> NamedBox:
    """Make the box of a row, in pixels. `size` is (height, width)."""
    x1, y1, x2, y2 = edges = [finite(values[edge], f"{uri} ({place}) {edge}") for edge in _EDGES]
    height, width = size
    label = NamedBox(
        names.get(values["class"], values["class"]),
        (x1 * width, y1 * height, x2 * width, y2 * height),
        place,
        edges,
        crowd=values["group"] == "1",
    )
    if any(not 0 <= edge <= 1 for edge in edges):
        raise label_error(
            label,
            f"{uri} ({place})",
            f"{edges} are not shares of the image's size, from 0 to 1",
            "Divide pixels by the width or height of the image.",
        )
    if not values["class"]:
        raise label_error(
            label, f"{uri} ({place})", "names no class", "Add it, or remove the line."
        )
    return label


OPEN_IMAGES = Format(
    name="open_images",
    description="Open Images (train-annotations-bbox.csv)",
    looks_like=_TABLES.looks_like,
    splits=_TABLES.splits,
    read=_read,
    declares_classes=False,
)
