"""Compares the boxes of two runs on the same images: what both have, and what only one of them has.

Boxes are compared from the scores on where people start to look. Two boxes are the same if they have the same
class and an IoU of .5 or more; the boxes of the first run choose by falling score, and each box counts once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics import ImageDetections, ImageGroundTruth, Matches, match_boxes
from fastrcnn.metrics.points import mistaken
from pipeline.results.tables import OTHER, RunTables
from pipeline.runtime.progress import Progress

logger = logging.getLogger(__name__)

MAX_IMAGES = 100_000
"""The largest number of images whose boxes are compared one by one. Of more, so many are drawn by a hash."""
EXAMPLES = 200
"""Images with the most differences that are remembered."""
_AT_ONCE = 2_000
_IOU = 0.5
_CORNERS = ("x_min", "y_min", "x_max", "y_max")

_BOTH = f"""
CREATE TABLE compared AS
SELECT a.row AS row, b.row AS other_row, row_number() OVER (ORDER BY a.row) - 1 AS place
FROM (SELECT row, image_uri, etag FROM images WHERE status = 'ok'
      AND image_uri IN (SELECT image_uri FROM {OTHER}.images WHERE status = 'ok')
      ORDER BY hash(image_uri) LIMIT {MAX_IMAGES}) AS a
JOIN {OTHER}.images AS b USING (image_uri) WHERE b.status = 'ok'"""
_IN_BOTH = f"""
SELECT count(*), count(*) FILTER (a.etag <> b.etag)
FROM images AS a JOIN {OTHER}.images AS b USING (image_uri)
WHERE a.status = 'ok' AND b.status = 'ok'"""
_BOXES = """
SELECT place, class_place + 1 AS label, score, x_min, y_min, x_max, y_max
FROM compared JOIN {shown} AS boxes ON boxes.row = compared.{row}
JOIN shared_classes ON shared_classes.name = boxes.label
WHERE place >= $1 AND place < $2 ORDER BY place, detection"""


@dataclass(slots=True)
class Comparison:
    """What two runs have in common.

    Args:
        classes: names of the K classes that both detectors have, in the order of the first run.
        same, only_this, only_other, other_class: (K,) counts of boxes. `other_class`: boxes of the first run
            on a box of the other run that has another class; they are among `only_this`.
        images: the number of images that were compared.
        alike: the number of these in which all boxes are the same.
        differences: row of the first run -> number of boxes that only one run has, for some of the images
            with the most.
    """

    classes: tuple[str, ...]
    same: npt.NDArray[np.int64]
    only_this: npt.NDArray[np.int64]
    only_other: npt.NDArray[np.int64]
    other_class: npt.NDArray[np.int64]
    images: int = 0
    alike: int = 0
    differences: dict[int, int] = field(default_factory=dict)

    @classmethod
    def empty(cls, classes: tuple[str, ...]) -> Comparison:
        """Make a comparison of no image."""
        same, this, other, other_class = (np.zeros(len(classes), np.int64) for _ in range(4))
        return cls(classes, same, this, other, other_class)

    def add(self, matches: Matches, rows: npt.NDArray[np.int64]) -> None:
        """Add images. The boxes of the other run are the objects of `matches`.

        Args:
            matches: of some images.
            rows: (N,) the row of each image in the first run.
        """
        size = len(self.classes) + 1
        of_class = [
            (self.same, matches.labels[matches.correct]),
            (self.only_this, matches.labels[~matches.correct]),
            (self.other_class, matches.labels[mistaken(matches, _IOU)]),
        ]
        left = np.ones(len(matches.object_labels), bool)
        left[matches.objects[matches.correct]] = False
        of_class.append((self.only_other, matches.object_labels[left]))
        for total, labels in of_class:
            total += np.bincount(labels, minlength=size)[1:]
        different = np.bincount(matches.images[~matches.correct], minlength=len(rows))
        different += np.bincount(matches.object_images[left], minlength=len(rows))
        self.images += len(rows)
        self.alike += int(np.count_nonzero(different == 0))
        found = np.flatnonzero(different)
        self.differences |= dict(zip(rows[found].tolist(), different[found].tolist(), strict=True))
        most = sorted(self.differences.items(), key=lambda one: (-one[1], one[0]))
        self.differences = dict(most[:EXAMPLES])

    def as_json(self) -> dict[str, Any]:
        """Give the counts by name."""
        columns = (self.same, self.only_this, self.only_other, self.other_class)
        return {
            "compared": self.images,
            "alike": self.alike,
            "classes": list(zip(self.classes, *(c.tolist() for c in columns), strict=True)),
        }


def compare(tables: RunTables, other: RunTables) -> tuple[Comparison, dict[str, Any]]:
    """Compare two runs that are loaded into one database.

    Returns:
        The comparison, and its figures as JSON types.
    """
    shared = tuple(name for name in tables.classes if name in other.classes)
    left_out = sorted({*tables.classes, *other.classes} - set(shared))
    connection = tables.connection
    connection.execute(_BOTH)
    connection.execute("CREATE TABLE shared_classes (name VARCHAR, class_place INTEGER)")
    if shared:
        connection.executemany(
            "INSERT INTO shared_classes VALUES ($1, $2)",
            [(name, place) for place, name in enumerate(shared)],
        )
    ((both, changed),) = tables.rows(_IN_BOTH)
    comparison = Comparison.empty(shared)
    with Progress("comparing", min(both, MAX_IMAGES), "images") as progress:
        for rows, matches in _matched(tables, shared):
            comparison.add(matches, rows)
            progress.update(comparison.images)
    if changed:
        logger.warning(
            "%d images were replaced between the two runs, and are compared too", changed
        )
    ((boxes, with_boxes),) = tables.rows(f"SELECT count(*), count(DISTINCT row) FROM {OTHER}.shown")
    return comparison, comparison.as_json() | {
        "in_both": both,
        "changed": changed,
        "left_out_classes": left_out,
        "model_id": other.model_id,
        "images": other.num_images,
        "shown": boxes,
        "images_with_boxes": with_boxes,
        "statuses": tables.rows(
            f"SELECT status, count(*) FROM {OTHER}.images GROUP BY 1 ORDER BY 2 DESC, 1"
        ),
    }


def _matched(
    tables: RunTables, shared: tuple[str, ...]
) -> Iterator[tuple[npt.NDArray[np.int64], Matches]]:
    ((count,),) = tables.rows("SELECT count(*) FROM compared")
    for first in range(0, count, _AT_ONCE):
        part = (first, min(first + _AT_ONCE, count))
        rows = tables.connection.execute(
            "SELECT row FROM compared WHERE place >= $1 AND place < $2 ORDER BY place", part
        ).fetchnumpy()["row"]
        numbers = np.asarray(rows, np.int64)
        ours = list(_detections(tables, part, "shown", "row"))
        theirs = _detections(tables, part, f"{OTHER}.shown", "other_row")
        truth = [ImageGroundTruth(boxes=one.boxes, labels=one.labels) for one in theirs]
        yield numbers, match_boxes(truth, ours, max(len(shared), 1), iou_threshold=_IOU)


def _detections(
    tables: RunTables, part: tuple[int, int], shown: str, row: str
) -> Iterator[ImageDetections]:
    """Give the boxes of the images of a part, from first to last."""
    found = tables.connection.execute(_BOXES.format(shown=shown, row=row), part).fetchnumpy()
    ends = np.searchsorted(found["place"], np.arange(part[0], part[1] + 1))
    boxes = np.stack([found[name] for name in _CORNERS], axis=1).astype(np.float64)
    for start, end in zip(ends, ends[1:], strict=False):
        rows = slice(start, end)
        yield ImageDetections(
            boxes=boxes[rows],
            labels=np.asarray(found["label"][rows], np.int64),
            scores=np.asarray(found["score"][rows], np.float64),
        )


Named = tuple[str, float, Sequence[float]]
"""Class, score and corners of a box."""


def agreement(ours: Sequence[Named], theirs: Sequence[Named]) -> tuple[list[bool], list[bool]]:
    """Say which boxes of one image both runs have.

    Returns:
        For each box of `ours` and of `theirs`, whether the other run has it too.
    """
    number = {name: k for k, name in enumerate(sorted({one[0] for one in (*ours, *theirs)}), 1)}
    first, second = (
        ImageDetections(
            boxes=np.array([box for _, _, box in boxes], np.float64).reshape(-1, 4),
            labels=np.array([number[name] for name, _, _ in boxes], np.int64),
            scores=np.array([score for _, score, _ in boxes], np.float64),
        )
        for boxes in (ours, theirs)
    )
    truth = ImageGroundTruth(boxes=second.boxes, labels=second.labels)
    matches = match_boxes([truth], [first], max(len(number), 1), iou_threshold=_IOU)
    found = set(matches.objects[matches.correct].tolist())
    return matches.correct.tolist(), [place in found for place in range(len(theirs))]
