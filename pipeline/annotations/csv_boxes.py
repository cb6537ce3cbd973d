"""Tables of boxes, as for TensorFlow's Object Detection API: one line a box, for each split one file.

    annotations/train_labels.csv: filename,width,height,class,xmin,ymin,xmax,ymax    images/train/x.jpg
    train/_annotations.csv (Roboflow) | labels.csv | ...                             images anywhere

Corners are those of VOC, 1-based and inclusive: the box becomes (xmin - 1, ymin - 1, xmax, ymax). If a corner
of the table is 0, its corners count from 0, and they are the edges of the box.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.annotations.labelled import (
    Annotations,
    BadLabel,
    Format,
    NamedBox,
    NamedImage,
    finite,
    good_and_bad,
    label_error,
)
from pipeline.annotations.matching import Matcher
from pipeline.annotations.table import TableKind, image_folders, rows
from pipeline.annotations.tree import Tree, unique_ids
from pipeline.errors import UserError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_COLUMNS = {
    "image": (
        "filename",
        "file",
        "image",
        "imagename",
        "imagepath",
        "imgpath",
        "filepath",
        "path",
        "imageid",
    ),
    "class": ("class", "classname", "label", "labelname", "category", "categoryname", "name"),
    "xmin": ("xmin", "x1", "left", "bboxx1", "bboxxmin"),
    "ymin": ("ymin", "y1", "top", "bboxy1", "bboxymin"),
    "xmax": ("xmax", "x2", "right", "bboxx2", "bboxxmax"),
    "ymax": ("ymax", "y2", "bottom", "bboxy2", "bboxymax"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
}
_TABLES = TableKind(meanings=_COLUMNS, optional=("width", "height"))

_Row = tuple[dict[str, str], tuple[float, ...]]
"""The values of a row, and its corners."""


def _read(tree: Tree, split: str, limit: int | None) -> Annotations:
    table = _TABLES.find(tree)[split]
    uri = tree.uri(table.path)
    matcher = Matcher(tree=tree, uri=uri, split=split, folders=image_folders(table.path, split))
    found: dict[str, str | None] = {}
    boxes: dict[str, list[tuple[str, _Row]]] = {}
    bad: dict[str, list[BadLabel]] = {}
    smallest, largest = 1.0, 0.0
    for place, values in rows(tree, table):
        name = values["image"]
        if name not in found:
            found[name] = matcher.find(name)
        if not any(values[c] for c in (*_CORNERS, "class")):  # an image without objects
            boxes.setdefault(found[name] or "", [])
            continue
        try:
            corners = tuple(finite(values[c], f"{uri} ({place}) {c}") for c in _CORNERS)
        except UserError as error:
            boxes.setdefault(found[name] or "", [])
            bad.setdefault(found[name] or "", []).append(BadLabel(uri, place, error))
            continue
        smallest, largest = min(smallest, *corners), max(largest, *corners)
        boxes.setdefault(found[name] or "", []).append((place, (values, corners)))
    matcher.require_all()
    if 0 < largest <= 1:
        raise UserError(
            uri,
            "holds only corners from 0 to 1, which look like shares of the image's size",
            "Multiply them by the width or height of the image: corners are in pixels.",
        )
    problems = matcher.problems()
    first = 0 if 0 <= smallest < 1 else 1
    if not first:
        problems.append(f"{uri}: the smallest corner is {smallest:g}, so its corners count from 0")
    paths = sorted(boxes)[:limit]
    images = []
    for path, image_id in zip(paths, unique_ids(paths), strict=True):
        good, found_bad = good_and_bad(
            lambda row, place: _box(row, place, first, uri), boxes[path], uri
        )
        found_bad = (*bad.get(path, ()), *found_bad)
        named = NamedImage(tree.uri(path), uri, image_id, good, bad=found_bad)
        try:
            size = _size([values for _, (values, _) in boxes[path]], uri)
        except UserError as error:
            whole = BadLabel(uri, "", error)
            named = replace(named, boxes=(), bad=(whole, *found_bad), unreadable=True)
        else:
            named = replace(named, size=size)
        images.append(named)
    return Annotations(tuple(images), None, tuple(problems))


def _box(row: _Row, place: str, first: int, uri: str) -> NamedBox:
    """Make the box of a row. `first` is the number of the first pixel, 0 or 1."""
    values, corners = row
    xmin, ymin, xmax, ymax = corners
    box = (xmin - first, ymin - first, xmax, ymax)
    if xmax <= xmin or ymax <= ymin:  # as in voc_xml: a stray click has no area
        box = (xmin, ymin, xmax, ymax)
    label = NamedBox(values["class"], box, place, [*corners])
    if not values["class"]:
        raise label_error(
            label, f"{uri} ({place})", "names no class", "Add it, or remove the line."
        )
    return label


def _size(all_values: list[dict[str, str]], uri: str) -> tuple[int, int] | None:
    """Return the (height, width) that the rows of an image state; None if they state none, or 0."""
    stated = {(v["height"], v["width"]) for v in all_values if v["height"] and v["width"]}
    if len(stated) > 1:
        raise UserError(
            uri,
            f"states several sizes of the image {all_values[0]['image']}",
            "Correct width and height.",
        )
    for height, width in stated:
        sides = [int(finite(side, f"{uri} (size)")) for side in (height, width)]
        return (sides[0], sides[1]) if min(sides) >= 1 else None
    return None


CSV = Format(
    name="csv",
    description="a CSV table (filename,class,xmin,ymin,xmax,ymax)",
    looks_like=_TABLES.looks_like,
    splits=_TABLES.splits,
    read=_read,
    declares_classes=False,
)
