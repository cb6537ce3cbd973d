"""What all label formats are turned into, the rules that hold for all of them, and what defines a format.

Legend: G boxes in one image, K classes; label 0 is the background, classes are 1..K.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.annotations.tree import Tree
from pipeline.errors import UserError

_OUTSIDE = 1.0
"""Pixels by which a box may leave its image: tools round, and some count corners from 0 instead of 1."""
# Python's own float() also takes 1_0 and digits of other scripts, which no tool means.
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image and what is to be seen in it."""

    image_uri: str
    annotation_uri: str
    """The file its boxes come from; YOLO: the one there would be, where nothing is to be seen."""
    gt_boxes: npt.NDArray[np.float32]
    """(G, 4) xyxy, absolute pixels, continuous edges, in the image frame; every box has an area."""
    gt_labels: npt.NDArray[np.int64]
    """(G,) in 1..K."""
    difficult: npt.NDArray[np.bool_]
    """(G,) VOC's flag: neither asked for nor counted against a detector."""
    crowd: npt.NDArray[np.bool_]
    """(G,) COCO's iscrowd: one box around many objects."""
    image_id: str
    """COCO's own id as text, else the stem of the image's name; unique among the images of a split."""
    size: tuple[int, int] | None = None
    """(height, width) as the annotation says; None where it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """One split of a data set."""

    images: tuple[LabelledImage, ...]
    """Sorted by image_uri."""
    classes: tuple[str, ...]
    """Label k is classes[k - 1]."""
    layout: str
    """The name of their format."""
    problems: tuple[str, ...]
    """What was wrong and could be left out: file, value, what was done."""


@dataclass(frozen=True, slots=True)
class NamedBox:
    """A box as a format's `read` gives it: its class is still a name."""

    name: str
    box: tuple[float, float, float, float]
    """xyxy, continuous edges, image frame."""
    where: str
    """Its place in the file, e.g. ``object 3``."""
    written: str
    """Its coordinates as the file has them, for messages."""
    difficult: bool = False
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image as a format's `read` gives it."""

    image_uri: str
    annotation_uri: str
    image_id: str
    boxes: tuple[NamedBox, ...]
    size: tuple[int, int] | None = None
    """(height, width) as the annotation says; None where it does not."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """A split as a format's `read` gives it."""

    images: tuple[NamedImage, ...]
    names: tuple[str, ...] | None
    """The classes the data set declares, in its order; None where it declares none."""
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A label format: how to recognise a data set that is written in it, and how to read one split.

    A format is one file that makes one of these, and its entry in `formats.FORMATS`.
    """

    name: str
    """Goes into `LabelledImages.layout`."""
    description: str
    """Its title and the files that it is recognised by, for the error on a folder of no known format."""
    looks_like: Callable[[Tree], bool]
    """Whether a data set is written in it, by the names of its files."""
    splits: Callable[[Tree], tuple[str, ...]]
    """The names of a data set's splits."""
    read: Callable[[Tree, str, int | None], Annotations]
    """Read a split; only the first images by URI where there is a limit."""
    declares_classes: bool
    """Whether a data set lists its classes. If not, all annotations are read to know them."""


def number_labels(found: Annotations, layout: str, classes: Sequence[str]) -> LabelledImages:
    """Names -> labels 1..K; boxes without area are left out and reported.

    Args:
        found: what a format's `read` gave.
        layout: the name of that format.
        classes: in label order; empty for the classes the data set declares (COCO: by id, YOLO: by number)
            or, where it declares none, every class in it, sorted.

    Raises:
        UserError: a box of a class that is not in `classes`, or no class at all; a box whose corners are
            swapped, or that lies outside its image.
    """
    used = Counter(box.name for image in found.images for box in image.boxes)
    chosen = tuple(classes) or found.names or tuple(sorted(used))
    _check_classes(chosen, found)
    problems = list(found.problems)
    images = [_number(image, chosen, problems) for image in found.images]
    unused = [name for name in chosen if name not in used]
    if unused:
        problems.append(f"no box of class {', '.join(unused)} in this split; kept as classes")
    return LabelledImages(
        images=tuple(sorted(images, key=lambda image: image.image_uri)),
        classes=chosen,
        layout=layout,
        problems=tuple(problems),
    )


def _check_classes(classes: tuple[str, ...], found: Annotations) -> None:
    if not classes:
        where = found.images[0].annotation_uri if found.images else "the split"
        raise UserError(where, "no box in the whole split, so no class either", "Give --classes.")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise UserError(f"class {twice[0]}", "is given twice", "Give each class once.")
    known = set(classes)
    for image in found.images:
        for box in image.boxes:
            if box.name not in known:
                raise UserError(
                    f"class {box.name!r} in {image.annotation_uri} ({box.where})",
                    f"is not among the classes {', '.join(classes)}",
                    "Add it to --classes or take the box out.",
                )


def _number(image: NamedImage, classes: tuple[str, ...], problems: list[str]) -> LabelledImage:
    kept = []
    for box in image.boxes:
        _check_place(box, image)
        x1, y1, x2, y2 = (np.float32(edge) for edge in box.box)
        if x2 > x1 and y2 > y1:
            kept.append(box)
        else:
            # Its regression target is log(0): one such box makes the loss NaN.
            problems.append(
                f"{image.annotation_uri} ({box.where}): {box.name} {box.written} has no area; left out"
            )
    boxes = np.array([box.box for box in kept], dtype=np.float32).reshape(-1, 4)  # (G, 4)
    return LabelledImage(
        image_uri=image.image_uri,
        annotation_uri=image.annotation_uri,
        gt_boxes=boxes,
        gt_labels=np.array([classes.index(box.name) + 1 for box in kept], dtype=np.int64),
        difficult=np.array([box.difficult for box in kept], dtype=np.bool_),
        crowd=np.array([box.crowd for box in kept], dtype=np.bool_),
        image_id=image.image_id,
        size=image.size,
    )


def _check_place(box: NamedBox, image: NamedImage) -> None:
    where = f"{image.annotation_uri} ({box.where})"
    x1, y1, x2, y2 = box.box
    if x2 < x1 or y2 < y1:
        raise UserError(
            where,
            f"{box.name} {box.written} ends before it begins",
            "Swap its corners, or write it in this layout's order.",
        )
    if image.size is None:
        return
    height, width = image.size
    if min(x1, y1) < -_OUTSIDE or x2 > width + _OUTSIDE or y2 > height + _OUTSIDE:
        raise UserError(
            where,
            f"{box.name} {box.written} lies outside its image, {width} wide and {height} high",
            "Mend the box, or the size if that is another picture's.",
        )


def finite(text: object, where: str) -> float:
    """A coordinate as the file has it, as a number.

    Raises:
        UserError: none, not a number, or not a finite one.
    """
    value = math.nan
    if isinstance(text, str) and _NUMBER.fullmatch(text):
        value = float(text)
    elif isinstance(text, float | int) and not isinstance(text, bool):
        value = float(min(max(text, -1e300), 1e300))  # a whole number may be too long for a float
    if not math.isfinite(value) or abs(value) >= 1e9:
        shown = repr(text) if len(str(text)) <= 40 else f"{str(text)[:40]!r}..."
        raise UserError(where, f"coordinate {shown} is not a finite number", "Write pixels there.")
    return value


def some(names: Sequence[str], most: int = 5) -> str:
    """``a, b, c, ... (17 in all)``"""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
