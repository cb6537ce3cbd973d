"""Reads the JSON of a COCO file, and the boxes (xywh) in its annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.annotations.labelled import (
    BadLabel,
    NamedBox,
    finite,
    first_few,
    label_error,
    refuse_shares,
)
from pipeline.annotations.tree import Tree
from pipeline.errors import UserError


class _Annotation(NamedTuple):
    """The parts of an annotation that are used; a million of them must fit into memory."""

    id: object
    image_id: object
    category_id: object
    bbox: object
    iscrowd: object
    area: object


_ABSENT = object()
"""Stands for an annotation without an id."""


def load(tree: Tree, path: str) -> dict[str, list[Any]]:
    uri = tree.uri(path)
    try:
        document = json.loads(tree.read(path), object_hook=_compact)
    except (ValueError, RecursionError) as error:  # bad JSON, bad Unicode; a million brackets
        raise UserError(
            uri, f"is not readable as JSON ({error})", "Export the annotations again."
        ) from error
    for section, kind in (("images", dict), ("annotations", _Annotation), ("categories", dict)):
        entries = document.get(section) if isinstance(document, dict) else None
        if section == "annotations" and isinstance(entries, list):
            entries = [_reduce(entry) if type(entry) is dict else entry for entry in entries]
            document[section] = entries
        if not isinstance(entries, list) or not all(isinstance(entry, kind) for entry in entries):
            raise UserError(
                uri, f"has no list of {section}", "Expected COCO's format for object detection."
            )
    sections: dict[str, list[Any]] = document
    return sections


def _compact(entry: dict[str, Any]) -> dict[str, Any] | _Annotation:
    """Reduce annotations as soon as they are read: outlines take ten times the memory of boxes."""
    return _reduce(entry) if "image_id" in entry and "bbox" in entry else entry


def _reduce(entry: dict[str, Any]) -> _Annotation:
    get = entry.get
    return _Annotation(
        get("id", _ABSENT),
        get("image_id"),
        get("category_id"),
        get("bbox"),
        get("iscrowd", 0),
        get("area"),
    )


def read_boxes(
    entries: list[_Annotation], names: dict[int, str], images: Iterable[str], uri: str
) -> tuple[dict[str, list[NamedBox]], dict[str | None, list[BadLabel]]]:
    """Map each image id, as text, to the boxes of the image, and to its bad labels.

    Bad labels of no image have the key None.
    """
    boxes: dict[str, list[NamedBox]] = {image_id: [] for image_id in images}
    if any(entry.id is not _ABSENT for entry in entries):
        check_unique((str(entry.id) for entry in entries), "annotation id", uri)
    bad: dict[str | None, list[BadLabel]] = {}
    entries.reverse()  # so that each is freed as soon as its box is made
    for number in range(len(entries)):
        entry = entries.pop()
        where = f"annotation {f'number {number}' if entry.id is _ABSENT else entry.id}"
        image_id: str | None = None
        try:
            image_id = _image_of(entry, where, boxes, uri)
            boxes[image_id].append(_box(entry, names, where, uri))
        except UserError as error:
            bad.setdefault(image_id, []).append(BadLabel(uri, where, error))
    _refuse_corners(boxes, uri)
    return boxes, bad


def _refuse_corners(boxes: Mapping[str, list[NamedBox]], uri: str) -> None:
    """Raise `UserError` if the areas are those of boxes that hold xmin, ymin, xmax, ymax, not x, y, w, h."""
    stated = (box for of_one in boxes.values() for box in of_one if box.area and not box.crowd)
    checked = 0
    for box in stated:
        x1, y1, x2, y2 = box.box
        width, height = x2 - x1 - x1, y2 - y1 - y1  # of the box, if bbox holds corners
        if min(width, height) <= 0 or not math.isclose(width * height, box.area or 0, rel_tol=1e-4):
            return
        checked += x1 > 0 or y1 > 0
    if checked:
        raise UserError(
            uri,
            "bbox holds the corners [xmin, ymin, xmax, ymax], because `area` is that of such a box",
            "Write bbox as [x, y, width, height].",
        )


def _image_of(entry: _Annotation, where: str, images: Container[str], uri: str) -> str:
    """Return the id of the image that an annotation is of. UserError: the file does not list it."""
    image_id = image_id_of(entry.image_id, where, uri)
    if image_id not in images:
        raise UserError(
            uri,
            f"has annotations of images that it does not list: {where}",
            "List the images, or remove the annotations.",
        )
    return image_id


def _box(entry: _Annotation, names: dict[int, str], where: str, uri: str) -> NamedBox:
    """Read one annotation: xywh -> xyxy."""
    box = entry.bbox
    if not isinstance(box, list) or len(box) != 4:
        raise UserError(
            f"{where} in {uri}",
            f"bbox {shorten(box)} is not [x, y, w, h]",
            "Write the bounding box of its segmentation, or remove the annotation.",
        )
    if any(isinstance(edge, str) for edge in box):
        raise UserError(f"{where} in {uri}", f"bbox {shorten(box)} holds text", "Expected numbers.")
    if (crowd := entry.iscrowd) not in (0, 1):
        raise UserError(f"{where} in {uri}", f"iscrowd is {shorten(crowd)}", "Expected 0 or 1.")
    x, y, w, h = (finite(edge, f"{where} in {uri}") for edge in box)
    refuse_shares((x, y, w, h), f"{where} in {uri}")
    category = entry.category_id
    known = type(category) is int and category in names
    label = NamedBox(
        names[category] if type(category) is int and known else "",
        (x, y, x + w, y + h),
        where,
        box,
        crowd=bool(crowd),
        area=_area(entry.area),
    )
    if not known:
        raise label_error(
            label,
            f"{where} in {uri}",
            f"category_id {shorten(category)} is not among the categories",
            f"The category ids are {first_few([str(known) for known in names])}.",
        )
    return label


def _area(value: object) -> float | None:
    """Return the area that the annotation states; None if it states none, or none that is possible."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e18:
        return float(value)
    return None


def image_id_of(value: object, where: str, uri: str) -> str:
    """Return an image id as text. UserError: it is neither an integer nor text."""
    if type(value) is int or (isinstance(value, str) and value):
        return str(value)
    raise UserError(
        f"{where} in {uri}",
        f"image id {shorten(value)} is neither an integer nor text",
        "Write the id that the image has in `images`.",
    )


def shorten(value: object, most: int = 80) -> str:
    """Show a value of the file in a message, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def check_unique(values: Iterable[object], what: str, uri: str) -> None:
    """Raise UserError if a value occurs twice; `what` names the kind of value."""
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise UserError(
                f"{what} {value} in {uri}", "is used twice", "Give each entry a different value."
            )
        seen.add(value)
