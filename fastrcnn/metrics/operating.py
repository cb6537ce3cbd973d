"""What a detector does at a score: precision and recall there, the best score, and how true scores are.

All functions read the result of `match_boxes`. Legend: see `fastrcnn.metrics`. T detections of all images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics.inputs import Bools, Floats
from fastrcnn.metrics.matching import Matches

BINS = 25
"""Bins of equal width for the calibration error (arXiv 2405.20459)."""
FEW_OBJECTS = 30
"""With fewer objects, a class gets no separate threshold: the best F1 of a few boxes is luck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtScore:
    """Counts of the detections with at least some score, over all classes."""

    true: int
    """Detections that have an object to themselves."""
    false: int
    """Other detections. Those of ignored objects count nowhere."""
    missed: int
    """Objects that no such detection has."""

    @property
    def precision(self) -> float:
        """Share of the detections that are true. NaN without detections."""
        return _ratio(self.true, self.true + self.false)

    @property
    def recall(self) -> float:
        """Share of the objects that a detection has. NaN without objects."""
        return _ratio(self.true, self.true + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall. NaN without detections and objects."""
        return _ratio(2 * self.true, 2 * self.true + self.false + self.missed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreQuality:
    """How true scores are. A number that cannot be measured is NaN."""

    precision: float
    """Share of true detections among those with a score of .5 or more."""
    recall: float
    """Share of the objects that such a detection has."""
    calibration_error: float
    """Expected calibration error. NaN also for the margins of an SVM."""

    def as_json(self) -> dict[str, float | None]:
        """Give the numbers by name; null for NaN, which JSON lacks."""
        numbers = {f.name: float(getattr(self, f.name)) for f in fields(self)}
        return {name: None if math.isnan(n) else n for name, n in numbers.items()}

    def __str__(self) -> str:
        precision, recall, error = (
            "-" if n is None else f"{n:.3f}" for n in self.as_json().values()
        )
        return f"precision {precision} and recall {recall} at score .5, calibration error {error}"


def score_quality(matches: Matches) -> ScoreQuality:
    """Measure precision and recall at score .5, and the expected calibration error."""
    half = at_score(matches, 0.5)
    in_range = bool(((matches.scores >= 0) & (matches.scores <= 1)).all())
    error = (
        expected_calibration_error(matches.scores, matches.correct) if in_range else float("nan")
    )
    return ScoreQuality(precision=half.precision, recall=half.recall, calibration_error=error)


def at_score(matches: Matches, score: float | Floats = 0.5) -> AtScore:
    """Count true and false detections and missed objects at a score.

    Args:
        score: one score for all classes, or (K,) one for each.
    """
    above = matches.scores >= thresholds_of(matches, score)
    true = int(np.count_nonzero(matches.correct & above))
    return AtScore(
        true=true,
        false=int(np.count_nonzero(above)) - true,
        missed=len(matches.object_labels) - true,
    )


def thresholds_of(matches: Matches, score: float | Floats) -> Floats:
    """Give the threshold (T,) of each detection. `score` is one number, or (K,) one for each class."""
    scores = np.asarray(score, np.float64)
    return scores[matches.labels - 1] if scores.ndim else np.full(len(matches.labels), scores)


def expected_calibration_error(scores: Floats, correct: Bools, bins: int = BINS) -> float:
    """Compute how far scores are from the share of true detections (D-ECE at IoU .5, arXiv 2405.20459).

    The sum over bins of the share of the detections in the bin, times the distance between their precision
    and their mean score. Classes are pooled.

    Args:
        scores: (T,) from 0 to 1.
        correct: (T,).

    Returns:
        A number from 0 to 1. NaN without detections.

    Example:
        Scores .9, .9, .1, .1, and one of the first two is true: (2 * |.5 - .9| + 2 * |0 - .1|) / 4 = .25.
    """
    if not len(scores):
        return float("nan")
    index = np.clip((np.asarray(scores, np.float64) * bins).astype(np.int64), 0, bins - 1)
    true = np.bincount(index, np.asarray(correct, np.float64), bins)
    total = np.bincount(index, np.asarray(scores, np.float64), bins)
    return float(np.abs(true - total).sum() / len(scores))


def best_f1_thresholds(matches: Matches, num_classes: int) -> npt.NDArray[np.float64]:
    """Give the score (K,) at which F1 of each class is highest on these images.

    A class with fewer than `FEW_OBJECTS` objects gets the score that is best for all classes together. NaN:
    there are no objects, or no true detections.
    """
    pooled = _best_f1(matches.scores, matches.correct, len(matches.object_labels))
    best = np.full(num_classes, pooled)
    for k in range(num_classes):
        num_objects = int(np.count_nonzero(matches.object_labels == k + 1))
        if num_objects >= FEW_OBJECTS:
            rows = matches.labels == k + 1
            best[k] = _best_f1(matches.scores[rows], matches.correct[rows], num_objects)
    return best


def _best_f1(scores: Floats, correct: Bools, num_objects: int) -> float:
    """Give the score with the highest F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (detections + objects).

    It lies midway to the next lower score, so that rounding on another machine moves no detection across.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, true = scores[order], np.cumsum(correct[order])
    last = np.append(ranked[1:] < ranked[:-1], True)[: len(ranked)]  # equal scores are one point
    if not num_objects or not len(true) or not true[-1]:
        return float("nan")
    f1 = np.where(last, 2 * true / (np.arange(1, len(true) + 1) + num_objects), -1.0)
    return threshold_after(ranked, int(f1.argmax()))


def threshold_after(ranked: Floats, place: int) -> float:
    """Give a threshold that keeps the scores up to a place, midway to the next lower score.

    Args:
        ranked: scores in falling order; the next one after `place` is lower.
    """
    if place + 1 == len(ranked):
        return float(ranked[place])
    return float((ranked[place] + ranked[place + 1]) / 2)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
