"""Changes labels as suspects say: adds a missing label, moves a box, gives another class."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastrcnn.metrics import ImageGroundTruth

EDGES = ("x_min", "y_min", "x_max", "y_max")
_SAME_PX = 0.05
"""Boxes with edges that differ by less are one box: tables hold float32."""


def by_image(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Group rows of SUSPECTS by image_uri, in order."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["image_uri"]].append(row)
    return dict(groups)


def corrected(
    truth: ImageGroundTruth, rows: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> tuple[ImageGroundTruth, Counter[str]]:
    """Change the labels of one image.

    Args:
        truth: its labels; label k means classes[k - 1].
        rows: its rows of SUSPECTS, the most suspicious first. The first row of a label counts.
        classes: K names. Rows of other classes are left out.

    Returns:
        The labels, and the number of changes by kind. A label that is not in `truth` is not changed.
    """
    number = {name: k for k, name in enumerate(classes, 1)}
    boxes, labels = truth.boxes.astype(np.float64).copy(), truth.labels.astype(np.int64).copy()
    changed: set[int] = set()
    count: Counter[str] = Counter()
    added: list[tuple[list[float], int]] = []
    for row in rows:
        found = [row[f"found_{edge}"] for edge in EDGES]
        if row["found_label"] not in number:
            continue
        if row["kind"] == "missing_label":
            added.append((found, number[row["found_label"]]))
            count[row["kind"]] += 1
            continue
        place = _find(boxes, labels, row, number)
        if place is None or place in changed:
            continue
        changed.add(place)
        count[row["kind"]] += 1
        if row["kind"] == "bad_box":
            boxes[place] = found
        else:
            labels[place] = number[row["found_label"]]
    return _with_added(truth, boxes, labels, added), count


def _find(
    boxes: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    row: Mapping[str, Any],
    number: Mapping[str, int],
) -> int | None:
    """Find the label of a row. None: there is no such label."""
    box = np.array([row[edge] for edge in EDGES], np.float64)
    near = (np.abs(boxes - box) < _SAME_PX).all(1) & (labels == number.get(row["label"], 0))
    return int(near.argmax()) if near.any() else None


def _with_added(
    truth: ImageGroundTruth,
    boxes: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    added: Sequence[tuple[list[float], int]],
) -> ImageGroundTruth:
    more = len(added)
    flags = {
        name: None if flag is None else np.append(flag, np.zeros(more, bool))
        for name, flag in (("difficult", truth.difficult), ("crowd", truth.crowd))
    }
    new = np.array([box for box, _ in added], np.float64).reshape(-1, 4)
    areas = truth.areas
    if areas is not None:
        areas = np.append(areas, (new[:, 2:] - new[:, :2]).prod(1))
    return replace(
        truth,
        boxes=np.concatenate([boxes, new]),
        labels=np.append(labels, [label for _, label in added]).astype(np.int64),
        areas=areas,
        **flags,
    )
