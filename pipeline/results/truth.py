"""Says of each box in a report whether it is right, from an evaluation, and where the labelled objects are.

Boxes are judged at every score: whether a box is right does not depend on boxes with lower scores. Which
objects are missed follows from the boxes that are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics import Matches, at_score, confusion
from fastrcnn.metrics.points import mistaken
from pipeline.results.measures import EvaluationResult

TRUE, FALSE, WRONG, SECOND = range(4)
"""What a box is: right; on no object; of another class than its object; the second box of its object."""
IOU = 0.5
Key = tuple[str, float, float, float, float, float]
"""Class, score and corners of a box: what tells boxes of one image apart."""


@dataclass(frozen=True, slots=True)
class LabelledTruth:
    """The objects of one image, and what each of its boxes is.

    Args:
        objects: [class index, x_min, y_min, x_max, y_max] each, in pixels of the image.
        outcomes: kind and position in `objects` of each box; position -1: it has no object. Boxes that only
            fit an ignored object are not judged, and are not in it.
    """

    objects: list[list[float]]
    outcomes: Mapping[Key, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Judged:
    """An evaluation, ready to be asked for single images."""

    result: EvaluationResult
    kinds: npt.NDArray[np.int64]
    """(T,) for each detection."""
    objects: npt.NDArray[np.int64]
    """(T,) index of the object that the detection is compared with. -1: there is none."""
    places: Mapping[str, int] = field(repr=False)
    """image_uri -> index of the image."""

    @classmethod
    def of(cls, result: EvaluationResult) -> Judged:
        """Judge all boxes of an evaluation."""
        matches = result.matches
        wrong = mistaken(matches, IOU)
        second = ~matches.correct & ~wrong & (matches.class_iou >= IOU)
        kinds = np.full(len(matches.labels), FALSE)
        kinds[matches.correct], kinds[wrong], kinds[second] = TRUE, WRONG, SECOND
        objects = np.where(matches.correct, matches.objects, -1)
        objects = np.where(wrong, matches.other_objects, objects)
        places = {uri: place for place, uri in enumerate(result.image_uris)}
        return cls(result, kinds, objects, places)

    def image(self, uri: str) -> LabelledTruth | None:
        """Give the objects and the outcomes of one image. None: it has no labels."""
        if uri not in self.places:
            return None
        place, matches = self.places[uri], self.result.matches
        rows = slice(*np.searchsorted(matches.images, (place, place + 1)).tolist())
        own = slice(*np.searchsorted(matches.object_images, (place, place + 1)).tolist())
        keys = zip(
            (self.result.classes[label - 1] for label in matches.labels[rows]),
            matches.scores[rows].tolist(),
            *matches.boxes[rows].T.tolist(),
            strict=True,
        )
        found = zip(
            self.kinds[rows].tolist(),
            np.where(self.objects[rows] < 0, -1, self.objects[rows] - own.start).tolist(),
            strict=True,
        )
        corners = matches.object_boxes[own].round(1).tolist()
        labels = (matches.object_labels[own] - 1).tolist()
        return LabelledTruth(
            objects=[[k, *box] for k, box in zip(labels, corners, strict=True)],
            outcomes=dict(zip(keys, found, strict=True)),
        )

    def examples(self, points: npt.NDArray[np.float64], most: int) -> list[list[str]]:
        """Give the images of wrong classes, false boxes, missed objects and true boxes, most certain first.

        Args:
            points: (K,) the score of each class from which boxes count.
            most: the largest number of images in a list.
        """
        matches = self.result.matches
        above = matches.scores >= points[matches.labels - 1]
        missed = np.ones(len(matches.object_labels), bool)
        missed[matches.objects[matches.correct & above]] = False
        by_kind = [np.flatnonzero(above & (self.kinds == kind)) for kind in (WRONG, FALSE, TRUE)]
        ranked = [
            matches.images[rows[np.argsort(-matches.scores[rows], kind="stable")]]
            for rows in by_kind
        ]
        misses = np.bincount(matches.object_images[missed], minlength=len(self.places))
        order = np.argsort(-misses, kind="stable")
        ranked.insert(2, order[misses[order] > 0])
        return [
            [self.result.image_uris[place] for place in list(dict.fromkeys(images.tolist()))[:most]]
            for images in ranked
        ]

    def figures(self, points: npt.NDArray[np.float64]) -> dict[str, Any]:
        """Count what is right, wrong and missed from the scores `points` (K,) on, as JSON types.

        `confusion`: [class of the object, class of the box, count], -1 for the background. `counts`: true,
        false and missed of each class.
        """
        matches, num_classes = self.result.matches, len(self.result.classes)
        counts = confusion(matches, points, num_classes)
        rows, columns = np.nonzero(counts)
        cells = zip(rows - 1, columns - 1, counts[rows, columns], strict=True)
        whole = at_score(matches, points)
        return {
            "confusion": [[int(a), int(b), int(n)] for a, b, n in cells],
            "true": whole.true,
            "false": whole.false,
            "missed": whole.missed,
            "counts": _by_class(matches, points),
        }


def _by_class(matches: Matches, points: npt.NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """Count true boxes, false boxes and missed objects of each class."""
    above = matches.scores >= points[matches.labels - 1]
    size = len(points) + 1
    true = np.bincount(matches.labels[above & matches.correct], minlength=size)[1:]
    false = np.bincount(matches.labels[above & ~matches.correct], minlength=size)[1:]
    objects = np.bincount(matches.object_labels, minlength=size)[1:]
    return list(zip(true.tolist(), false.tolist(), (objects - true).tolist(), strict=True))


def judge(truth: LabelledTruth | None, boxes: Sequence[tuple[Key, list[Any]]]) -> None:
    """Append kind and position of its object to each box; null and -1 for one that is not judged."""
    for key, box in boxes:
        box += (None, -1) if truth is None else truth.outcomes.get(key, (None, -1))
