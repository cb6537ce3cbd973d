"""Describe a labelled data set in a few lines, to check before a long training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.annotations import LabelledImages
from pipeline.storage.chains import archive_part

BAR = 20
"""Length of the longest histogram bar, in characters."""


def describe_data(
    training: LabelledImages,
    validation: LabelledImages | None,
    held_out: LabelledImages | None = None,
) -> list[str]:
    """Give one line per split and per data set in it, then one line per class: its counts, histogram bar and
    warning.

    Args:
        validation: None without a validation split.
        held_out: images to calibrate scores on. They count as training images, and the line says so.
    """
    lines = []
    if held_out is not None:
        training = replace(training, images=(*training.images, *held_out.images))
        lines = [f"  {len(held_out.images)} of them are held out to calibrate scores on"]
    lines = [_split_line("training", training), *lines, *_set_lines(training)]
    if validation is not None:
        lines += [_split_line("validation", validation), *_set_lines(validation)]
    counts = _counts(training)
    absent = [n == 0 for n, _ in _counts(validation)] if validation else [False] * len(counts)
    width = max(len("class"), *(len(name) for name in training.classes))
    lines.append(f"  {'class':<{width}} {'boxes':>8} {'images':>7} {'side, px':>9}")
    sides = _median_sides(training)
    for k, name in enumerate(training.classes):
        boxes, images = counts[k]
        bar = "#" * round(BAR * boxes / max(max(c[0] for c in counts), 1))
        side = "-" if np.isnan(sides[k]) else f"{sides[k]:.0f}"
        line = f"  {name:<{width}} {boxes:>8} {images:>7} {side:>9}  {bar:<{BAR}}"
        lines.append(f"{line}  {_warning(boxes, absent[k])}".rstrip())
    return lines


def _split_line(name: str, data: LabelledImages) -> str:
    """Describe one split: its images, and how many objects or images are special."""
    empty = sum(len(image.gt_boxes) == 0 for image in data.images)
    difficult = sum(int(image.difficult.sum()) for image in data.images)
    crowd = sum(int(image.crowd.sum()) for image in data.images)
    parts = [f"{_count_with_noun(len(data.images), f'{name} image')} ({data.layout})"]
    parts += [f"{empty} without objects"] * bool(empty)
    parts += [_count_with_noun(difficult, "difficult object")] * bool(difficult)
    parts += [f"{_count_with_noun(crowd, 'crowd')}, not trained on"] * bool(crowd)
    parts += [f"{_count_with_noun(len(data.problems), 'problem')}, listed above"] * bool(
        data.problems
    )
    return ", ".join(parts)


def _set_lines(data: LabelledImages) -> list[str]:
    """Describe the part of each data set in a split that joins several."""
    if len(data.sets) < 2:
        return []
    innermost = sorted(data.sets, key=lambda one: -len(one.root))
    images: Counter[str] = Counter()
    boxes: Counter[str] = Counter()
    for image in data.images:
        place = f"{archive_part(image.image_uri)}/"  # an archive is its own folder
        tops = (one.root for one in innermost if place.startswith(f"{one.root}/"))
        root = next(tops, "")
        images[root] += 1
        boxes[root] += len(image.gt_boxes)
    return [
        f"  {_count_with_noun(images[one.root], 'image')},"
        f" {boxes[one.root]} {'box' if boxes[one.root] == 1 else 'boxes'}: {one.root} ({one.layout})"
        for one in data.sets
    ]


def _count_with_noun(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _counts(data: LabelledImages) -> list[tuple[int, int]]:
    """Count boxes and images of each class."""
    boxes = np.zeros(len(data.classes) + 1, np.int64)
    images = np.zeros_like(boxes)
    for image in data.images:
        np.add.at(boxes, image.gt_labels, 1)
        images[np.unique(image.gt_labels)] += 1
    return list(zip(boxes[1:].tolist(), images[1:].tolist(), strict=True))


def _median_sides(data: LabelledImages) -> Sequence[float]:
    """Give the median object side of each class, in pixels of the image file; NaN for a class without boxes.

    The side of a box is the square root of its area. --scale and the backbone must resolve it.
    """
    sides: list[list[float]] = [[] for _ in data.classes]
    for image in data.images:
        extents = image.gt_boxes[:, 2:] - image.gt_boxes[:, :2]
        for label, side in zip(image.gt_labels, np.sqrt(extents.prod(axis=1)), strict=True):
            sides[label - 1].append(float(side))
    return [float(np.median(values)) if values else float("nan") for values in sides]


def _warning(boxes: int, absent_from_validation: bool) -> str:
    """Say why a class will train or validate badly; empty if it is fine."""
    if boxes == 0:
        return "no training example: cannot be learned"
    if boxes == 1:
        return "only one training example"
    return "no validation example" if absent_from_validation else ""
