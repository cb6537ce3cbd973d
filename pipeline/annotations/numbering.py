"""Turns class names into labels 1..K, and applies what the run says about bad labels and other classes.

A *bad label* is one line, object or annotation that cannot be right. The run is refused, or the label becomes
an ignored region if it has a place, or it is cut at the edge of its image.

Legend: G boxes and I ignored regions in one image, K classes. Label 0 is the background, classes are 1..K.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.annotations.labelled import (
    Annotations,
    BadLabel,
    LabelError,
    LabelledImage,
    LabelledImages,
    NamedBox,
    NamedImage,
    first_few,
    label_error,
)
from pipeline.annotations.rules import REFUSE, LabelRules, NoClassError, refuse
from pipeline.errors import UserError

OUTSIDE = 1.0
"""Pixels by which a box may leave its image: tools round, and some count corners from 0 instead of 1."""
IGNORED, LEFT_OUT, CUT = "now an ignored region", "left out", "cut at the edge of the image"
"""What becomes of a bad label."""

_Corners = tuple[float, float, float, float]


def number_labels(
    annotations: Annotations,
    layout: str,
    classes: Sequence[str],
    rules: LabelRules = REFUSE,
) -> LabelledImages:
    """Turn class names into labels 1..K. Boxes without area are left out and reported.

    Args:
        annotations: the result of `Format.read`.
        layout: the name of that format.
        classes: in label order. Empty means the classes that the data set declares (COCO: by id, YOLO: by
            number); if it declares none, all classes in it, sorted.
        rules: what becomes of bad labels and of other classes.

    Raises:
        UserError: there is no class at all, one is given twice, or none of them has a box while others have.
            Also for a bad label, unless `rules` say otherwise.
    """
    annotations, problems = _renamed(annotations, rules.rename)
    used = Counter(box.name for image in annotations.images for box in image.boxes)
    names = tuple(classes) or annotations.names or tuple(sorted(used))
    _check_classes(names, annotations)
    bad = [replace(one, done=LEFT_OUT) for one in annotations.bad]
    numbering = _Numbering(names, rules, [*annotations.problems, *problems], bad)
    images = [numbering.image(image) for image in annotations.images if not image.unreadable]
    left_out: dict[str, str] = {}
    for image in annotations.images:
        if image.unreadable:
            numbering.bad += [replace(one, done="image left out") for one in image.bad]
            left_out[image.image_uri] = image.bad[0].text
    if numbering.bad and rules.on_bad_label == "refuse":
        raise refuse(numbering.bad)
    _report_others(numbering, names, used)
    unused = [name for name in names if name not in used]
    if unused:
        numbering.problems.append(
            f"this split has no box of class {', '.join(unused)}; the class is kept"
        )
    return LabelledImages(
        images=tuple(sorted(images, key=lambda image: image.image_uri)),
        classes=names,
        layout=layout,
        problems=tuple(numbering.problems),
        bad=tuple(numbering.bad),
        left_out=left_out,
    )


def _renamed(annotations: Annotations, rename: Mapping[str, str]) -> tuple[Annotations, list[str]]:
    """Give classes other names, all at once: two names may change places. Return problems too."""
    if not rename:
        return annotations, []
    known = {box.name for image in annotations.images for box in image.boxes}
    known |= set(annotations.names or ())
    problems = [
        f"--rename {old}={new}: this split has no class {old!r}; its classes are"
        f" {first_few(sorted(known))}"
        for old, new in rename.items()
        if old not in known
    ]
    images = tuple(
        replace(
            image,
            boxes=tuple(replace(b, name=rename.get(b.name, b.name)) for b in image.boxes),
        )
        for image in annotations.images
    )
    names = annotations.names
    if names is not None:
        names = tuple(dict.fromkeys(rename.get(name, name) for name in names))
    return replace(annotations, images=images, names=names), problems


def _check_classes(classes: tuple[str, ...], annotations: Annotations) -> None:
    """Raise `UserError` if there is no class, or one is given twice."""
    if not classes:
        bad = [*annotations.bad, *(one for image in annotations.images for one in image.bad)]
        if bad:
            raise refuse(bad)
        where = annotations.images[0].annotation_uri if annotations.images else "the split"
        raise NoClassError(
            where, "the whole split has no box, so no class is known", "Give --classes."
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise UserError(f"class {twice[0]}", "is given twice", "Give each class once.")


def _report_others(numbering: _Numbering, names: Sequence[str], used: Mapping[str, int]) -> None:
    """Report the classes whose boxes are ignored regions. Raise `UserError` if no other box is left."""
    if not numbering.others:
        return
    counts = [f"{name} ({count})" for name, count in sorted(numbering.others.items())]
    if not any(name in used for name in names):
        raise UserError(
            f"--classes {' '.join(names)}",
            "no box has one of these classes",
            f"The classes of the boxes are {first_few(counts)}.",
        )
    numbering.problems.append(
        f"boxes of classes that --classes does not name are ignored regions: {first_few(counts)}"
    )


class _Numbering:
    """Numbers the boxes of one image after another, and collects what is reported."""

    def __init__(
        self,
        names: Sequence[str],
        rules: LabelRules,
        problems: list[str],
        bad: list[BadLabel],
    ) -> None:
        self.number = {name: label for label, name in enumerate(names, start=1)}
        self.rules, self.problems, self.bad = rules, problems, bad
        self.others: Counter[str] = Counter()

    def image(self, image: NamedImage) -> LabelledImage:
        """Number the boxes of one image, those of bad labels too if they can be used."""
        kept: list[NamedBox] = []
        regions: list[_Corners] = []
        for box in image.boxes:
            error = _problem(box, image, self.number)
            if error is None:
                self._keep(box, image, kept)
            elif box.name not in self.number and self.rules.ignore_others:
                self.others[box.name] += 1
                regions += _region(box, image.size)
            else:
                self._bad(BadLabel(image.annotation_uri, box.where, error), image, kept, regions)
        for one in image.bad:
            self._bad(one, image, kept, regions)
        boxes = np.array([box.box for box in kept], dtype=np.float32).reshape(-1, 4)  # (G, 4)
        return LabelledImage(
            image_uri=image.image_uri,
            annotation_uri=image.annotation_uri,
            gt_boxes=boxes,
            gt_labels=np.array([self.number[box.name] for box in kept], dtype=np.int64),
            difficult=np.array([box.difficult for box in kept], dtype=np.bool_),
            crowd=np.array([box.crowd for box in kept], dtype=np.bool_),
            ignored=np.array(regions, dtype=np.float32).reshape(-1, 4),  # (I, 4)
            image_id=image.image_id,
            size=image.size,
            areas=_areas(kept),
        )

    def _keep(self, box: NamedBox, image: NamedImage, kept: list[NamedBox]) -> None:
        x1, y1, x2, y2 = (np.float32(edge) for edge in box.box)
        if x2 > x1 and y2 > y1:
            kept.append(box)
        else:
            # The regression target of such a box is log(0): one of them makes the loss NaN.
            self.problems.append(
                f"{image.annotation_uri} ({box.where}): {box.name} {box.written} has no area; left out"
            )

    def _bad(
        self,
        one: BadLabel,
        image: NamedImage,
        kept: list[NamedBox],
        regions: list[_Corners],
    ) -> None:
        """Add a bad label to the boxes (cut), to the ignored regions, or to nothing."""
        label = one.error.label if isinstance(one.error, LabelError) else None
        name = label and self.rules.rename.get(label.name, label.name)
        region = _region(label, image.size) if label is not None else []
        done = IGNORED if region else LEFT_OUT
        in_order = (
            label is not None and label.box[0] <= label.box[2] and label.box[1] <= label.box[3]
        )
        if self.rules.on_bad_label == "clip" and label and region and in_order:
            if name in self.number:
                x1, y1, x2, y2 = region[0]
                area = label.area and min(label.area, (x2 - x1) * (y2 - y1))
                kept.append(replace(label, name=str(name), box=region[0], area=area))
                region, done = [], CUT
        regions += region
        self.bad.append(replace(one, done=done))


def _problem(box: NamedBox, image: NamedImage, number: Mapping[str, int]) -> LabelError | None:
    """Return what is wrong with a box; None if it can be used."""
    x1, y1, x2, y2 = box.box
    if box.name not in number:
        return label_error(
            box,
            f"class {box.name!r} in {image.annotation_uri} ({box.where})",
            f"is not among the classes {', '.join(number) or '(there are none)'}",
            "Add the class to --classes, or remove the box.",
        )
    if x2 < x1 or y2 < y1:
        return label_error(
            box,
            f"{image.annotation_uri} ({box.where})",
            f"{box.name} {box.written} ends before it begins",
            "Swap its corners, or write the coordinates in the order of this format.",
        )
    if image.size is not None and leaves(box.box, image.size):
        height, width = image.size
        return label_error(
            box,
            f"{image.annotation_uri} ({box.where})",
            f"{box.name} {box.written} lies outside its image, {width} wide and {height} high",
            "Correct the box, or the image size in the annotation.",
        )
    return None


def leaves(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box leaves its image by more than tools round. `size` is (height, width)."""
    x1, y1, x2, y2 = box
    height, width = size
    return min(x1, y1) < -OUTSIDE or x2 > width + OUTSIDE or y2 > height + OUTSIDE


def cut(box: Sequence[float], size: tuple[int, int] | None) -> _Corners | None:
    """Cut a box, xyxy, at the edges of its image; None if no area is left. `size` is (height, width).

    Corners in the wrong order are put in order.
    """
    height, width = (np.inf, np.inf) if size is None else size
    x1, x2 = sorted((box[0], box[2]))
    y1, y2 = sorted((box[1], box[3]))
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
    return (
        (x1, y1, x2, y2)
        if np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)
        else None
    )


def _region(box: NamedBox, size: tuple[int, int] | None) -> list[_Corners]:
    """Return the part of a box inside its image: one region or none."""
    region = cut(box.box, size)
    return [] if region is None else [region]


def _areas(boxes: Sequence[NamedBox]) -> npt.NDArray[np.float64] | None:
    """Return the areas (G,) that count for COCO; None if they are those of the boxes."""
    areas = [
        (box.box[2] - box.box[0]) * (box.box[3] - box.box[1]) if box.area is None else box.area
        for box in boxes
    ]
    stated = any(box.area is not None for box in boxes)
    return np.array(areas, dtype=np.float64) if stated else None
