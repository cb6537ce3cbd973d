"""Calibration of scores: a score of .5 means that one in two such boxes is an object.

    score' = sigmoid(a logit(score) + b)

Two numbers for each class (Platt 1999, Probabilistic outputs for support vector machines; for detectors
arXiv 2405.20459). The head's scores are inflated, because it is trained on a sample of the proposals with a
quarter of foreground and scored on what suppression leaves. The curve rises (a > 0), so the order of the
boxes of a class stays, and so does its average precision.

Legend: T detections; K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
Curve = tuple[float, float]
"""The numbers a and b of one class."""

SAME: Curve = (1.0, 0.0)
"""The curve that changes no score."""
MIN_SLOPE = 0.05
"""Smallest a. With a smaller one, float32 scores of different boxes become equal."""
SHARED_SPREAD: Curve = (1.0, 3.0)
"""Standard deviations of the prior of the curve of all classes around `SAME`. In seven trainings a was .97 to
3, and b -7 to .2. Hundreds of boxes outweigh the prior; one false box alone lowers b by 1."""
CLASS_SPREAD: Curve = (0.5, 1.0)
"""Standard deviations of the prior of the curve of one class around the shared curve. A class with few boxes
stays near the shared curve, one with hundreds moves freely."""
_LOWEST, _HIGHEST = 1e-12, 1.0 - 2.0**-24
"""Scores are limited to this range before the logit. Above, float32 has only 1."""
_STEPS = 100
_PAIRS_AT_ONCE = 2_000_000


def fit_calibration(
    scores: npt.ArrayLike,
    correct: npt.ArrayLike,
    labels: npt.ArrayLike,
    num_classes: int,
    *,
    has_objects: npt.ArrayLike | None = None,
    weights: npt.ArrayLike | None = None,
) -> tuple[Curve, ...]:
    """Fit one curve for each class to detections of images that the training did not see.

    First one curve is fitted to all detections, then one for each class with that curve as its prior. Both
    are maxima of the posterior with normal priors. They exist and are finite for any data: no detections,
    only true ones, only false ones, or equal scores.

    Args:
        scores: (T,) from 0 to 1, after suppression.
        correct: (T,) bool, whether a detection is true: see `fastrcnn.metrics.match_boxes`.
        labels: (T,) in 1..K.
        num_classes: K.
        has_objects: (K,) bool, whether the images hold objects of a class. A class without gets the shared
            curve, because its scores on objects are unknown. None: every class has objects.
        weights: (T,) how many detections each one stands for, such as 1 / probability of its image in a
            sample. They are divided by their mean, so that the priors weigh as without them. None: all
            count alike.

    Returns:
        K pairs (a, b), with a >= `MIN_SLOPE`.
    """
    x, y = logit(np.asarray(scores, np.float64)), np.asarray(correct, np.float64)
    classes = np.asarray(labels)
    counts = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    counts = counts / counts.mean() if len(counts) else counts
    shared = _fit(x, y, counts, SAME, SHARED_SPREAD)
    if num_classes == 1:
        return (shared,)
    known = np.ones(num_classes, bool) if has_objects is None else np.asarray(has_objects, bool)
    rows = [(classes == k) & known[k - 1] for k in range(1, num_classes + 1)]
    return tuple(_fit(x[row], y[row], counts[row], shared, CLASS_SPREAD) for row in rows)


def calibrate(scores: Tensor, labels: Tensor, curves: Sequence[Curve]) -> Tensor:
    """Apply the curves.

    Args:
        scores: (T,) float, from 0 to 1.
        labels: (T,) int64, 1..K.
        curves: K pairs (a, b).

    Returns:
        (T,) of the type of `scores`.
    """
    a, b = torch.tensor(curves, dtype=torch.float64, device=scores.device)[labels - 1].unbind(1)
    x = torch.logit(scores.double().clamp(_LOWEST, _HIGHEST))
    return torch.sigmoid(a * x + b).to(scores.dtype)


def limit_to_one_class(
    boxes: Tensor, labels: Tensor, scores: Tensor, iou_threshold: float
) -> Tensor:
    """Limit each score to 1 minus that of a better detection of another class on the same object.

    The scores are probabilities, and an object has one class: if it is a circle with .9, it is a square with
    .1 at most. The better detection counts with its own limited score. With equal scores, the first is the
    better one. Nothing is removed, so average precision loses no box.

    Args:
        boxes: (D, 4) of one image.
        labels: (D,) int64.
        scores: (D,), calibrated.
        iou_threshold: two detections show the same object if their IoU is above this.

    Returns:
        (D,) scores in the order of the input.
    """
    # It takes a second to import, and `evaluate` and `report` need the curves only.
    from torchvision.ops import box_iou

    order = torch.sort(scores, descending=True, stable=True).indices
    boxes, labels, limited = boxes[order], labels[order], scores[order].clone()
    # Up to .5, a score s limits others to 1 - s >= s, and they are s at most.
    num_limiting = int((limited > 0.5).sum())
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(boxes)))
    for first in range(0, num_limiting, rows):
        some = slice(first, min(first + rows, num_limiting))
        same_object = box_iou(boxes[some], boxes) > iou_threshold  # (rows, D)
        worse = same_object & (labels[some, None] != labels)
        worse &= torch.arange(len(boxes)) > torch.arange(len(boxes))[some, None]
        for row in torch.nonzero(worse.any(dim=1))[:, 0].tolist():
            limited[worse[row]] = limited[worse[row]].clamp(max=1 - float(limited[first + row]))
    result = torch.empty_like(limited)
    result[order] = limited
    return result


def uncalibrate(score: float, curves: Sequence[Curve]) -> Floats:
    """Give the score (K,) before calibration that each class's curve turns into `score`.

    A box whose score before is above it has a calibrated score above `score`, up to rounding. 0 stays 0, and
    1 stays 1.
    """
    if not 0 < score < 1:
        return np.full(len(curves), float(score))
    a, b = np.array(curves, np.float64).T
    return _sigmoid((logit(np.float64(score)) - b) / a)


def logit(scores: npt.ArrayLike) -> Floats:
    """Compute log(s / (1 - s)), with s limited so that the result is finite."""
    s = np.clip(np.asarray(scores, np.float64), _LOWEST, _HIGHEST)
    values: Floats = np.log(s) - np.log1p(-s)
    return values


def _sigmoid(x: npt.ArrayLike) -> Floats:
    values: Floats = 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64)))
    return values


def _fit(x: Floats, y: Floats, counts: Floats, prior: Curve, spread: Curve) -> Curve:
    """Maximise the posterior of (a, b) given logits x (T,), truths y (T,), 0 or 1, and their weights (T,).

    The negative log posterior is convex. If its minimum has a slope below `MIN_SLOPE`, the minimum among
    larger slopes lies at `MIN_SLOPE`, and only b is fitted.
    """
    a, b = _newton(x, y, counts, prior, spread, free=(True, True))
    if a >= MIN_SLOPE:
        return a, b
    return _newton(x, y, counts, (MIN_SLOPE, prior[1]), spread, free=(False, True))


def _newton(
    x: Floats, y: Floats, counts: Floats, prior: Curve, spread: Curve, free: tuple[bool, bool]
) -> Curve:
    """Minimise the negative log posterior by Newton's method with halved steps (Lin, Lin, Weng 2007, A note
    on Platt's probabilistic outputs)."""
    center, weight = np.array(prior), 1 / np.square(spread)
    design = np.stack([x, np.ones_like(x)], axis=1)  # (T, 2)
    moves = np.array(free, np.float64)

    def loss(theta: Floats) -> float:
        z = design @ theta
        return float(counts @ (np.logaddexp(0, z) - y * z) + 0.5 * weight @ (theta - center) ** 2)

    theta, value = center.copy(), loss(center)
    for _ in range(_STEPS):
        p = _sigmoid(design @ theta)
        gradient = (design.T @ (counts * (p - y)) + weight * (theta - center)) * moves
        hessian = design.T @ (design * (counts * p * (1 - p))[:, None]) + np.diag(weight)
        hessian = hessian * np.outer(moves, moves) + np.diag(1 - moves)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-10 and not loss(theta - size * step) <= value:
            size /= 2
        theta = theta - size * step
        before, value = value, loss(theta)
        if before - value <= 1e-12 * (1 + abs(value)):
            break
    return float(theta[0]), float(theta[1])
