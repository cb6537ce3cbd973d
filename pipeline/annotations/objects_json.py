"""Boxes of one image as WebDataset and Hugging Face write them: lists of objects with bbox and category.

    {"objects": {"bbox": [[x, y, w, h], ...], "category": [3, ...]}}     lists of one length
    {"annotations": [{"bbox": [x, y, w, h], "category": "cat"}, ...]}    a list of objects

Boxes are xywh in pixels, as COCO's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.annotations.labelled import NamedBox, finite
from pipeline.errors import UserError

LISTS = ("objects", "annotations", "boxes")
BOXES = ("bbox", "bboxes", "box")
CATEGORIES = ("category", "categories", "category_name", "label", "labels", "class", "category_id")


def entries_of(value: Any, where: str) -> list[tuple[Any, Any]]:
    """Return (bbox, category) of each object.

    Args:
        value: a mapping of lists, or a list of mappings.
        where: the file, for messages.

    Raises:
        UserError: it is neither, or its lists have different lengths.
    """
    if isinstance(value, Mapping):
        boxes, categories = _first(value, BOXES), _first(value, CATEGORIES)
        if not isinstance(boxes, Sequence) or not isinstance(categories, Sequence):
            raise UserError(where, "has no lists of bbox and category", _EXPECTED)
        if len(boxes) != len(categories):
            raise UserError(
                where, f"has {len(boxes)} boxes and {len(categories)} categories", _EXPECTED
            )
        return list(zip(boxes, categories, strict=True))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if all(isinstance(entry, Mapping) for entry in value):
            return [(_first(entry, BOXES), _first(entry, CATEGORIES)) for entry in value]
    raise UserError(where, "has no list of objects", _EXPECTED)


_EXPECTED = 'Expected {"objects": {"bbox": [[x, y, w, h], ...], "category": [...]}}.'


def _first(entry: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def box_of(entry: tuple[Any, Any], where: str, place: str, names: Sequence[str] | None) -> NamedBox:
    """Make a box of (bbox, category).

    Args:
        entry: the box as xywh, and its category: a name, or a number.
        where: the file and the place in it.
        place: the place in the file.
        names: the class names by number; None: a number is its own name.

    Raises:
        UserError: the box has not four numbers, or the category is unknown.
    """
    bbox, category = entry
    if not isinstance(bbox, Sequence) or isinstance(bbox, str) or len(bbox) != 4:
        raise UserError(where, f"its bbox is {bbox!r}", "Expected x, y, width, height in pixels.")
    x, y, width, height = (finite(number, where) for number in bbox)
    if isinstance(category, str) and category.strip():
        name = category
    elif isinstance(category, int) and not isinstance(category, bool):
        if names is not None and not 0 <= category < len(names):
            raise UserError(
                where, f"its category is {category}", f"Expected 0 to {len(names) - 1}."
            )
        name = names[category] if names is not None else str(category)
    else:
        raise UserError(where, f"its category is {category!r}", "Expected a name or a number.")
    return NamedBox(name, (x, y, x + width, y + height), place, list(bbox))
