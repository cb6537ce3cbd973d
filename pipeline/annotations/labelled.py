"""The result of reading labels, the checks that hold for every label format, and the definition of a format.

Legend: G boxes in one image, K classes. Label 0 is the background, the classes are 1..K.
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
# Python's float() also accepts 1_0 and digits of other scripts. No labelling tool means a number by them.
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image and the labelled boxes in it."""

    image_uri: str
    annotation_uri: str
    """The file that the boxes come from. YOLO: given even if the image has no label file."""
    gt_boxes: npt.NDArray[np.float32]
    """(G, 4) xyxy, absolute pixels, continuous edges, in the image frame. Every box has an area."""
    gt_labels: npt.NDArray[np.int64]
    """(G,) in 1..K."""
    difficult: npt.NDArray[np.bool_]
    """(G,) VOC's flag. A detector is not expected to find such an object, and is not punished if it does."""
    crowd: npt.NDArray[np.bool_]
    """(G,) COCO's iscrowd: one box around many objects."""
    image_id: str
    """COCO's image id as text; in other formats the stem of the file name. Unique in a split."""
    size: tuple[int, int] | None = None
    """(height, width) as the annotation states it; None if it states no size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """One split of a data set."""

    images: tuple[LabelledImage, ...]
    """Sorted by image_uri."""
    classes: tuple[str, ...]
    """Label k is classes[k - 1]."""
    layout: str
    """The name of the label format."""
    problems: tuple[str, ...]
    """What was wrong and was left out: one line each, with the file, the value and what was done."""


@dataclass(frozen=True, slots=True)
class NamedBox:
    """A box as `Format.read` returns it: its class is a name, not yet a number."""

    name: str
    box: tuple[float, float, float, float]
    """xyxy, absolute pixels, continuous edges, image frame."""
    where: str
    """Its place in the file, e.g. ``object 3``."""
    written: str
    """Its coordinates as they stand in the file, for messages."""
    difficult: bool = False
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image as `Format.read` returns it."""

    image_uri: str
    annotation_uri: str
    image_id: str
    boxes: tuple[NamedBox, ...]
    size: tuple[int, int] | None = None
    """(height, width) as the annotation states it; None if it states no size."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """A split as `Format.read` returns it."""

    images: tuple[NamedImage, ...]
    names: tuple[str, ...] | None
    """The classes that the data set declares, in its order; None if it declares none."""
    problems: tuple[str, ...]
    """As `LabelledImages.problems`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A label format: how to recognise a data set in this format, and how to read one split.

    A format is one module that makes one `Format`, and one entry in `formats.FORMATS`.
    """

    name: str
    """The short name; becomes `LabelledImages.layout`."""
    description: str
    """Title, and the files that identify the format; shown when a folder has no known format."""
    looks_like: Callable[[Tree], bool]
    """Tells from the file names whether a data set is in this format."""
    splits: Callable[[Tree], tuple[str, ...]]
    """Lists the names of a data set's splits."""
    read: Callable[[Tree, str, int | None], Annotations]
    """Reads a split. The number is a limit: read only so many images, the first by URI; None reads all."""
    declares_classes: bool
    """Whether the data set lists its classes. If not, all annotations must be read to know the classes."""


def number_labels(annotations: Annotations, layout: str, classes: Sequence[str]) -> LabelledImages:
    """Turn class names into labels 1..K. Boxes without area are left out and reported.

    Args:
        annotations: the result of `Format.read`.
        layout: the name of that format.
        classes: in label order. Empty means the classes that the data set declares (COCO: by id, YOLO: by
            number); if it declares none, all classes in it, sorted.

    Raises:
        UserError: a box has a class that is not in `classes`; there is no class at all, or one is given
            twice; the corners of a box are swapped; a box lies outside its image.
    """
    used = Counter(box.name for image in annotations.images for box in image.boxes)
    names = tuple(classes) or annotations.names or tuple(sorted(used))
    _check_classes(names, annotations)
    problems = list(annotations.problems)
    images = [_number(image, names, problems) for image in annotations.images]
    unused = [name for name in names if name not in used]
    if unused:
        problems.append(f"this split has no box of class {', '.join(unused)}; the class is kept")
    return LabelledImages(
        images=tuple(sorted(images, key=lambda image: image.image_uri)),
        classes=names,
        layout=layout,
        problems=tuple(problems),
    )


def _check_classes(classes: tuple[str, ...], annotations: Annotations) -> None:
    if not classes:
        where = annotations.images[0].annotation_uri if annotations.images else "the split"
        raise UserError(
            where, "the whole split has no box, so no class is known", "Give --classes."
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise UserError(f"class {twice[0]}", "is given twice", "Give each class once.")
    known = set(classes)
    for image in annotations.images:
        for box in image.boxes:
            if box.name not in known:
                raise UserError(
                    f"class {box.name!r} in {image.annotation_uri} ({box.where})",
                    f"is not among the classes {', '.join(classes) or '(there are none)'}",
                    "Add the class to --classes, or remove the box.",
                )


def _number(image: NamedImage, classes: tuple[str, ...], problems: list[str]) -> LabelledImage:
    kept = []
    for box in image.boxes:
        _check_place(box, image)
        x1, y1, x2, y2 = (np.float32(edge) for edge in box.box)
        if x2 > x1 and y2 > y1:
            kept.append(box)
        else:
            # The regression target of such a box is log(0): one of them makes the loss NaN.
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
            "Swap its corners, or write the coordinates in the order of this format.",
        )
    if image.size is None:
        return
    height, width = image.size
    if min(x1, y1) < -_OUTSIDE or x2 > width + _OUTSIDE or y2 > height + _OUTSIDE:
        raise UserError(
            where,
            f"{box.name} {box.written} lies outside its image, {width} wide and {height} high",
            "Correct the box, or the image size in the annotation.",
        )


def finite(text: object, where: str) -> float:
    """Turn a coordinate from a file into a number.

    Args:
        text: the value as it stands in the file: text, a number, or None if it is missing.
        where: the file and the place in it, for the error.

    Raises:
        UserError: the value is missing, not a number, not finite, or 1e9 or more in absolute value.
    """
    value = math.nan
    if isinstance(text, str) and _NUMBER.fullmatch(text):
        value = float(text)
    elif isinstance(text, float | int) and not isinstance(text, bool):
        value = float(min(max(text, -1e300), 1e300))  # an integer may be too large for a float
    if not math.isfinite(value) or abs(value) >= 1e9:
        shown = repr(text) if len(str(text)) <= 40 else f"{str(text)[:40]!r}..."
        raise UserError(
            where, f"coordinate {shown} is not a finite number", "Expected a number below 1e9."
        )
    return value


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Join the first `most` names for a message: ``a, b, c, ... (17 in all)``."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
