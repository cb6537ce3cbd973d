"""The score of each class from which a person looks at its boxes.

A checkpoint's config.json may have `operating_points`, a mapping from class name to score. Where it has none
for a class, the score is .5. Tables keep every box above the score threshold all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

DEFAULT = 0.5


def min_scores(
    config: Mapping[str, object], classes: tuple[str, ...], checkpoint: str
) -> npt.NDArray[np.float32]:
    """Read the operating points of a checkpoint.

    Args:
        config: its config.json.
        classes: K names, in label order.
        checkpoint: what to call it in an error.

    Returns:
        (K,) scores.

    Raises:
        ValueError: `operating_points` is no mapping from these classes to scores.
    """
    points = config.get("operating_points")
    if points is None:
        points = {}
    if isinstance(points, Mapping) and set(points) <= set(classes):
        scores = [DEFAULT if (p := points.get(name)) is None else p for name in classes]
        if all(is_score(score) for score in scores):
            return np.array(scores, np.float32)
    raise ValueError(
        f"{checkpoint}: operating_points in config.json is {str(points)[:80]}: expected a score for classes"
        f" among {', '.join(classes)[:200]}. Take it out of config.json, or give min_score."
    )


def is_score(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
