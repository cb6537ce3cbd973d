"""Finds what is probably a mistake in labels that can be read: equal boxes, classes that differ by case."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from pipeline.annotations.labelled import LabelledImage, first_few

_NUMBERED = re.compile(r"\d+[\s:.,)]+\S")
_MANY, _LARGE = 10, 200
"""Boxes that must agree before they are doubted; pixels of a side of an image."""
_SPACES = re.compile(r"[\s_\-]+")


def find_doubts(images: Sequence[LabelledImage], classes: Sequence[str]) -> list[str]:
    """Return one line for each kind of doubt, with the files or classes that it is about."""
    return [
        *_equal_boxes(images),
        *_similar_classes(classes),
        *_lists_as_names(classes),
        *_percent(images),
    ]


def _lists_as_names(classes: Sequence[str]) -> list[str]:
    """Report class names that look like lines of a list with numbers or commas."""
    numbered = len(classes) > 1 and all(_NUMBERED.match(name) for name in classes)
    odd = [name for name in classes if numbered or "," in name]
    if not odd:
        return []
    return [
        f"class names that look like a list: {first_few([repr(name) for name in odd])}; a list of"
        " names has one name a line, without numbers"
    ]


def _percent(images: Sequence[LabelledImage]) -> list[str]:
    """Report boxes that all lie within the first 100 pixels of larger images: they may be percentages."""
    boxes = [image.gt_boxes for image in images if len(image.gt_boxes)]
    sizes = [image.size for image in images if len(image.gt_boxes)]
    if sum(map(len, boxes)) < _MANY or not all(size and min(size) > _LARGE for size in sizes):
        return []
    if max(float(of_one.max()) for of_one in boxes) > 100:
        return []
    return [
        f"no box of these {len(boxes)} images reaches beyond 100 px, but each image is larger than"
        f" {_LARGE} px; are the coordinates percentages?"
    ]


def _equal_boxes(images: Sequence[LabelledImage]) -> list[str]:
    """Report images in which one class has the same box twice. Both boxes are kept."""
    places = []
    for image in images:
        boxes = list(
            zip(image.gt_labels.tolist(), map(tuple, image.gt_boxes.tolist()), strict=True)
        )
        if len(set(boxes)) < len(boxes):
            twice = next(box for box in boxes if boxes.count(box) > 1)
            corners = ", ".join(f"{edge:g}" for edge in twice[1])
            places.append(f"{image.annotation_uri} (image {image.image_id}, box [{corners}])")
    return (
        [f"the same box stands twice, and is used twice, in {first_few(places)}"] if places else []
    )


def _similar_classes(classes: Sequence[str]) -> list[str]:
    """Report classes whose names differ only in case, spaces, ``-`` and ``_``, or forms of one letter."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        key = _SPACES.sub("", unicodedata.normalize("NFKC", name).casefold())
        alike.setdefault(key, []).append(name)
    groups = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    return (
        [f"classes with almost the same name: {first_few(groups)}; is it one class?"]
        if groups
        else []
    )
