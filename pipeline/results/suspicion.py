"""Finds labels that are probably wrong, by comparing them with detections of a model that did not see them.

    missing_label  a sure detection where no label is              p free
    wrong_class    a sure detection of another class on a label    p (1 - q)
    bad_box        a sure detection of the class beside its label  p far (1 - q')

with p the score of the detection, and each factor from 0 to 1:

    free  1 up to IoU .3 with any label, 0 from IoU .5 on. A detection that may be the right place of a label
          of its class that nothing else finds is no missing label; its factor is the q of that label
    q     the best score with which the label is found as it is, at IoU .5
    far   1 below IoU .5, where the label counts as missed. From .5 on, what is unusual: 0 down to one
          interquartile range below the first quartile of the IoUs of the class, 1 from two below it
          (Tukey's fence lies in the middle). A detector whose boxes are loose accuses nobody
    q'    the best score of a detection that fits the label better

The score ranks; it is not the chance that the label is wrong. If a share e of the labels is missing, a
detection of score p on no label is right with p e / (p e + 1 - p): for e = 3%, .23 at p = .9 and .75 at
p = .99. So only very sure detections accuse a label, and a better detector finds more.

ObjectLab (Tkachenko, Thyagarajan and Mueller 2023) compares the same three cases. Its numbers are fixed
(p >= .95, no overlap at all), so it finds little in crowds and with detectors that are never so sure.

Legend: G labels and D detections of one image. Boxes are xyxy in pixels of the upright image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics import ImageDetections, ImageGroundTruth, Matches, match_boxes
from fastrcnn.metrics.inputs import pairwise_iou

Kind = Literal["missing_label", "bad_box", "wrong_class"]
KINDS: tuple[Kind, ...] = ("missing_label", "bad_box", "wrong_class")
SAME_OBJECT = 0.5
"""IoU from which a detection and a label are of one object, as in VOC's evaluation."""
FREE = 0.3
"""IoU up to which a detection is clearly no second box of a labelled object."""
TOUCHES = 0.1
"""IoU from which a detection may be the right place of a label."""
FEW_PAIRS = 10
"""With fewer pairs of labels and detections, no usual IoU of the class is computed."""
LEAST_SPREAD = 0.02
"""Smallest interquartile range of IoUs: people do not draw boxes more exactly."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A label that is probably wrong, or missing."""

    kind: Kind
    score: float
    """From 0 to 1. The most suspicious ones have the highest scores."""
    image: int
    """Index of the image."""
    label: int
    """Class of the label, 1..K. 0: a label is missing."""
    box: tuple[float, float, float, float] | None
    """The labelled box. None: a label is missing."""
    found_label: int
    """Class of the detection, 1..K."""
    found_score: float
    found_box: tuple[float, float, float, float]
    iou: float
    """IoU of the detection with the label; for a missing label, the highest with any label."""


def find_suspects(
    truth: Sequence[ImageGroundTruth],
    detections: Sequence[ImageDetections],
    num_classes: int,
    *,
    min_score: float = 0.0,
) -> list[Suspect]:
    """List the suspects of all images, the most suspicious first.

    Difficult objects, crowds and ignored regions are neither suspects nor empty places.

    Args:
        truth: N items, the labels.
        detections: N items in the same order, from models that were not trained on these images, with
            calibrated scores.
        num_classes: K.
        min_score: leave out suspects with a lower score.
    """
    matches = match_boxes(truth, detections, num_classes)
    usual = UsualIou.of(matches, num_classes)
    found: list[Suspect] = []
    for index in range(len(truth)):
        part = matches.of_images(index, index + 1)
        if len(part.labels):
            pair = _Pair(part, usual)
            for one in (*pair.missing(), *pair.wrong_classes(), *pair.bad_boxes()):
                if one.score >= min_score and one.score > 0:
                    found.append(one)
    return sorted(found, key=lambda one: (-one.score, one.image, one.kind, one.found_box))


@dataclass(frozen=True, slots=True)
class UsualIou:
    """How well detections fit the labels of each class that they find."""

    quartiles: tuple[tuple[float, float] | None, ...]
    """First and third quartile of the IoUs of each class, by score .5 or more. None: there are few."""

    @classmethod
    def of(cls, matches: Matches, num_classes: int) -> Self:
        """Measure the quartiles. A class with fewer than `FEW_PAIRS` pairs gets those of all classes."""
        sure = matches.correct & (matches.scores >= 0.5)
        ious, labels = matches.class_iou[sure], matches.labels[sure]
        quartiles = []
        for k in range(1, num_classes + 1):
            of_class = ious[labels == k]
            chosen = of_class if len(of_class) >= FEW_PAIRS else ious
            first, third = np.quantile(chosen, (0.25, 0.75)).tolist() if len(chosen) else (0, 0)
            quartiles.append((first, third) if len(chosen) >= FEW_PAIRS else None)
        return cls(tuple(quartiles))

    def far(self, ious: Floats, label: int) -> Floats:
        """Say how unusual IoUs (N,) with a label of this class are: from 0, usual, to 1.

        With fewer than `FEW_PAIRS` pairs in all, nobody knows what is usual: 1 - IoU.
        """
        quartiles = self.quartiles[label - 1]
        if quartiles is None:
            return 1 - ious
        first, third = quartiles
        spread = max(third - first, LEAST_SPREAD)
        unusual: Floats = np.clip((first - ious) / spread - 1, 0.0, 1.0)
        return np.where(ious < SAME_OBJECT, 1.0, unusual)


class _Pair:
    """Labels and detections of one image, compared."""

    def __init__(self, matches: Matches, usual: UsualIou) -> None:
        self.image = int(matches.images[0])
        self.p, self.labels, self.boxes = matches.scores, matches.labels, matches.boxes
        self.gt_boxes, self.gt_labels = matches.object_boxes, matches.object_labels
        self.iou = pairwise_iou(self.boxes, self.gt_boxes)  # (D, G)
        self.same = self.labels[:, None] == self.gt_labels[None]
        self.same_iou = np.where(self.same, self.iou, 0.0)
        fits = self.same_iou >= SAME_OBJECT
        self.q = np.where(fits, self.p[:, None], 0.0).max(0, initial=0.0)  # (G,)
        self.usual = usual

    def missing(self) -> list[Suspect]:
        """Find detections on no label. Of several detections of one place, the best one counts."""
        overlap = self.iou.max(1, initial=0.0)
        free = np.clip((SAME_OBJECT - overlap) / (SAME_OBJECT - FREE), 0.0, 1.0)
        scores = self.p * free
        nearest = self._nearest(self.same_iou)
        beside = np.flatnonzero(self.same_iou.max(1, initial=0.0) >= TOUCHES)
        scores[beside] *= self.q[nearest[beside]]
        found: list[Suspect] = []
        kept: list[int] = []
        for d in np.argsort(-scores, kind="stable").tolist():
            if scores[d] <= 0:
                break
            if kept and pairwise_iou(self.boxes[[d]], self.boxes[kept]).max() >= SAME_OBJECT:
                continue
            kept.append(d)
            found.append(self._suspect("missing_label", float(scores[d]), d, None, overlap[d]))
        return found

    def wrong_classes(self) -> list[Suspect]:
        """Find labels that a detection of another class fits, and none of theirs."""
        nearest = self._nearest(self.iou)
        explained = self.same_iou.max(1, initial=0.0) >= SAME_OBJECT
        found = []
        for g in range(len(self.gt_labels)):
            others = (nearest == g) & ~self.same[:, g] & (self.iou[:, g] >= SAME_OBJECT)
            rows = np.flatnonzero(others & ~explained)
            if len(rows):
                d = int(rows[self.p[rows].argmax()])
                score = float(self.p[d] * (1 - self.q[g]))
                found.append(self._suspect("wrong_class", score, d, g, self.iou[d, g]))
        return found

    def bad_boxes(self) -> list[Suspect]:
        """Find labels whose class is seen beside them, and not at their place."""
        nearest = self._nearest(self.same_iou)
        found = []
        for g in range(len(self.gt_labels)):
            rows = np.flatnonzero((nearest == g) & (self.same_iou[:, g] >= TOUCHES))
            if not len(rows):
                continue
            ious, p = self.same_iou[rows, g], self.p[rows]
            far = self.usual.far(ious, int(self.gt_labels[g]))
            better = np.where(ious[None] > ious[:, None], p[None], 0.0).max(1)  # (rows,)
            scores = p * far * (1 - better)
            best = int(scores.argmax())
            if scores[best] > 0:
                d = int(rows[best])
                found.append(
                    self._suspect("bad_box", float(scores[best]), d, g, self.same_iou[d, g])
                )
        return found

    def _nearest(self, iou: Floats) -> Ints:
        """Give the index (D,) of the label with the highest IoU. -1: there is no label."""
        if not len(self.gt_labels):
            return np.full(len(self.labels), -1)
        nearest: Ints = iou.argmax(1)
        return nearest

    def _suspect(self, kind: Kind, score: float, d: int, g: int | None, iou: float) -> Suspect:
        return Suspect(
            kind=kind,
            score=score,
            image=self.image,
            label=0 if g is None else int(self.gt_labels[g]),
            box=None if g is None else _box(self.gt_boxes[g]),
            found_label=int(self.labels[d]),
            found_score=float(self.p[d]),
            found_box=_box(self.boxes[d]),
            iou=float(iou),
        )


def _box(row: Floats) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = row.tolist()
    return x1, y1, x2, y2
