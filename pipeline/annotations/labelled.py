"""The result of reading labels, bad labels, and the definition of a label format.

Legend: G boxes in one image, K classes. Label 0 is the background, the classes are 1..K.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.annotations.tree import Tree
from pipeline.errors import UserError, one_line

Item = TypeVar("Item")

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
    ignored: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """(I, 4) regions of which nobody knows what they show: boxes that were left out, and objects of classes
    that are not wanted. Neither training nor evaluation counts anything in them."""
    image_id: str
    """COCO's image id as text; in other formats the stem of the file name. Unique in a split."""
    size: tuple[int, int] | None = None
    """(height, width) as the annotation states it; None if it states no size."""
    areas: npt.NDArray[np.float64] | None = None
    """(G,) square pixels of the outlines, as COCO's file states them; None: the areas of the boxes count."""


@dataclass(frozen=True, slots=True)
class SetName:
    """A data set that labelled images come from."""

    root: str
    """The absolute URI of the folder below which its images lie."""
    layout: str
    """The name of its label format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """One split of a data set, or of several that are joined."""

    images: tuple[LabelledImage, ...]
    """Sorted by image_uri."""
    classes: tuple[str, ...]
    """Label k is classes[k - 1]."""
    layout: str
    """The name of the label format."""
    problems: tuple[str, ...]
    """What was wrong and was left out: one line each, with the file, the value and what was done."""
    bad: tuple[BadLabel, ...] = ()
    """The labels that cannot be right, each with what became of it."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Image URI -> reason, for the images that are left out because nobody knows their labels."""
    sets: tuple[SetName, ...] = ()
    """The data sets that the images are from."""


@dataclass(frozen=True, slots=True)
class NamedBox:
    """A box as `Format.read` returns it: its class is a name, not yet a number."""

    name: str
    box: tuple[float, float, float, float]
    """xyxy, absolute pixels, continuous edges, image frame."""
    where: str
    """Its place in the file, e.g. ``object 3``."""
    written: object
    """Its coordinates as they stand in the file, for messages: text, or a list of numbers."""
    difficult: bool = False
    crowd: bool = False
    area: float | None = None
    """The area that COCO's file states, in square pixels; None if the area of the box counts."""


class LabelError(UserError):
    """A label that cannot be right, but has a place in its image."""

    label: NamedBox | None = None
    """The label; its class may be unknown, its box may leave the image."""


def label_error(label: NamedBox, what: str, why: str, advice: str) -> LabelError:
    """Make the error of a bad label whose place in the image is known. For the texts see `UserError`."""
    error = LabelError(what, why, advice)
    error.label = label
    return error


@dataclass(frozen=True, slots=True)
class BadLabel:
    """A line, an object or an annotation that cannot be right, or a whole file that cannot be read."""

    annotation_uri: str
    where: str
    """Its place in the file, e.g. ``line 2``; empty for the whole file."""
    error: UserError
    """What is wrong, and what to do."""
    done: str = ""
    """What became of it; empty if it was refused."""

    @property
    def reason(self) -> str:
        """What is wrong, without the place."""
        return str(self.error.args[1])

    @property
    def text(self) -> str:
        """Place and reason in one line."""
        what, why, _ = self.error.args
        return one_line(f"{what}: {why}")


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image as `Format.read` returns it."""

    image_uri: str
    annotation_uri: str
    image_id: str
    boxes: tuple[NamedBox, ...]
    size: tuple[int, int] | None = None
    """(height, width) as the annotation states it; None if it states no size."""
    bad: tuple[BadLabel, ...] = ()
    """Its labels that cannot be right."""
    unreadable: bool = False
    """Whether its label file, or the size in it, cannot be read. Then `bad` says why."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """A split as `Format.read` returns it."""

    images: tuple[NamedImage, ...]
    names: tuple[str, ...] | None
    """The classes that the data set declares, in its order; None if it declares none."""
    problems: tuple[str, ...]
    """As `LabelledImages.problems`."""
    bad: tuple[BadLabel, ...] = ()
    """Bad labels of no image."""
    unlabelled: UserError | None = None
    """What is wrong if no image of the split has a label file: a training would learn to find nothing."""


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


def good_and_bad(
    make: Callable[[Item, str], NamedBox], items: Iterable[tuple[str, Item]], uri: str
) -> tuple[tuple[NamedBox, ...], tuple[BadLabel, ...]]:
    """Make the boxes of one image; a label that cannot be right is kept apart.

    Args:
        make: turns an entry of the file and its place into a box, or raises `UserError` or `LabelError`.
        items: the place of each entry, such as ``line 2``, and the entry.
        uri: the file.
    """
    good: list[NamedBox] = []
    bad: list[BadLabel] = []
    for where, item in items:
        try:
            good.append(make(item, where))
        except UserError as error:
            bad.append(BadLabel(uri, where, error))
    return tuple(good), tuple(bad)


def finite(text: object, where: str) -> float:
    """Turn a coordinate from a file into a number.

    Args:
        text: the value as it stands in the file: text, a number, or None if it is missing.
        where: the file and the place in it, for the error.

    Raises:
        UserError: the value is missing, not a number, not finite, or 1e9 or more in absolute value.
    """
    if text is None:
        raise UserError(where, "the coordinate is missing", "Expected a number below 1e9.")
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


def refuse_shares(numbers: Sequence[float], where: str) -> None:
    """Raise `UserError` if a box in pixels holds shares of the image's size, such as 0.25, instead.

    Args:
        numbers: the box as it stands in the file, e.g. VOC's corners.
        where: the file and the place in it, for the error.
    """
    if all(0 <= number <= 1 for number in numbers) and any(number % 1 for number in numbers):
        raise UserError(
            where,
            f"{[*numbers]} look like shares of the image's size, from 0 to 1",
            "Multiply them by the width or height of the image: this format is in pixels.",
        )


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Join the first `most` names for a message: ``a, b, c, ... (17 in all)``."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
