"""How true scores are, class by class: calibration errors and reliability curves.

All functions read the result of `match_boxes`. Legend: see `fastrcnn.metrics`. T detections of all images; B
bins of equal width from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics.matching import Matches
from fastrcnn.metrics.operating import BINS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Counts of the detections of each class by score. Row k - 1 is class k.

    Args:
        boxes: (K, B) detections in each bin.
        right: (K, B) those that have an object of their class to themselves.
        scores: (K, B) sum of their scores: the number that would be right if scores were true.
    """

    boxes: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]

    @property
    def errors(self) -> npt.NDArray[np.float64]:
        """Expected calibration error (K,) of each class: the sum over its bins of |right - sum of scores|,
        over its boxes (arXiv 2405.20459). NaN for a class without boxes."""
        distance = np.abs(self.right - self.scores).sum(1)
        total = self.boxes.sum(1)
        errors: npt.NDArray[np.float64] = np.divide(
            distance, total, out=np.full(len(total), np.nan), where=total > 0
        )
        return errors

    def merged(self, bins: int) -> Reliability:
        """Return the same counts in fewer bins. `bins` divides B."""
        parts = [
            counts.reshape(len(counts), bins, -1).sum(2)
            for counts in (self.boxes, self.right, self.scores)
        ]
        return Reliability(boxes=parts[0], right=parts[1], scores=parts[2])


def reliability(matches: Matches, num_classes: int, bins: int = BINS) -> Reliability | None:
    """Count the detections of each class by score.

    Args:
        num_classes: K.
        bins: B. The calibration error depends on it: use the same number to compare.

    Returns:
        None if scores lie outside 0 to 1, as the margins of an SVM do.

    Example:
        One class, scores .9 (right) and .9 (wrong), 5 bins: the last bin has 2 boxes, 1 right, scores 1.8,
        and the error is |1 - 1.8| / 2 = .4.
    """
    if not ((matches.scores >= 0) & (matches.scores <= 1)).all():
        return None
    place = np.clip((matches.scores * bins).astype(np.int64), 0, bins - 1)
    flat, size = (matches.labels - 1) * bins + place, num_classes * bins

    def count(weights: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        counts = np.bincount(flat, weights, size).astype(np.float64)
        return counts.reshape(num_classes, bins)

    return Reliability(
        boxes=count(None).astype(np.int64),
        right=count(matches.correct.astype(np.float64)).astype(np.int64),
        scores=count(matches.scores),
    )
