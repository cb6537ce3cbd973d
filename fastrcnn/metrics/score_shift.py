"""Compare the scores of some images with those of the images that the scores were calibrated on.

Calibrated scores hold for images like those of the calibration. On other images a detector is usually less
sure, or sure for other reasons. So the distribution of its scores moves, and this shows without labels.

For one class, let every box weigh as much as its score: the sum of the weights is the expected number of
objects, and the many boxes near 0 count little. The *score shift* is the distance between the distributions
of this weight over the scores, from 0 to 1: the area between their two cumulative curves (Wasserstein's
first distance). A shift of .1 says: the objects that are expected were seen with scores that differ by .1
on average.

Two samples of equal images differ by chance too. How much is measured by the bootstrap over images, because
the boxes of one image belong together (Efron and Tibshirani 1993, An introduction to the bootstrap, ch. 16).

Legend: N images, K classes, B bins of equal width from 0 to 1. Row 0 of a histogram is all classes
together, row k is class k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics.inputs import ImageDetections

SHIFT_BINS = 50
RESAMPLINGS = 200
"""Pairs of samples of the images, to measure how much equal images differ."""
QUANTILE = 0.99
LEAST_SHIFT = 0.05
"""Smaller shifts are never reported: the scores are then off by less than what a calibration on some hundred
objects is off by anyway."""
MARGIN = 1.5
"""A shift counts from this multiple of what `QUANTILE` of the pairs of samples reach. All classes of a
detector are looked at, and one alone would be above the quantile in one of a hundred runs."""
FEW_OBJECTS = 5.0
"""Classes with fewer expected objects are left out: nothing can be said about them."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreHistogram:
    """The scores of N images.

    Args:
        images: N.
        weights: (K + 1, B) sums of scores.
        noise: (K + 1,) the shift that `QUANTILE` of the pairs of samples of N such images stay below. None:
            not measured. NaN for a class without boxes.
    """

    images: int
    weights: Floats
    noise: Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A difference that is larger than chance."""

    label: int
    """0: all classes together."""
    shift: float
    limit: float
    """The shift from which it is reported, for this number of images."""
    mean_before: float
    """Mean score by weight, in the images of the calibration."""
    mean_now: float


def histogram_of(
    detections: Sequence[ImageDetections], num_classes: int, bins: int = SHIFT_BINS
) -> ScoreHistogram:
    """Sum the scores of images by class and score. Scores are from 0 to 1."""
    per_image = _per_image(detections, num_classes, bins)
    return ScoreHistogram(images=len(detections), weights=per_image.sum(0))


def measured_histogram(
    detections: Sequence[ImageDetections],
    num_classes: int,
    *,
    weights: Floats | None = None,
    seed: int = 0,
) -> ScoreHistogram:
    """Sum the scores of images as `histogram_of`, and measure how much samples of such images differ.

    Args:
        weights: (N,) how many images each one stands for. None: all count alike.
    """
    per_image = _per_image(detections, num_classes, SHIFT_BINS)
    if weights is not None and len(weights):
        per_image *= (weights / weights.mean())[:, None, None]
    number = len(detections)
    random = np.random.default_rng(seed)
    shifts = np.full((RESAMPLINGS, num_classes + 1), np.nan)
    flat = per_image.reshape(number, -1)
    for row in shifts if number else ():
        pair = [np.bincount(random.integers(0, number, number), minlength=number) for _ in range(2)]
        first, second = ((counts @ flat).reshape(num_classes + 1, SHIFT_BINS) for counts in pair)
        row[:] = score_shift(first, second)
    return ScoreHistogram(images=number, weights=per_image.sum(0), noise=_quantile(shifts))


def histogram_json(histogram: ScoreHistogram) -> dict[str, Any]:
    """Give a histogram with JSON types, for a checkpoint's config.json. NaN is null."""
    noise = [] if histogram.noise is None else histogram.noise.tolist()
    return {
        "images": histogram.images,
        "weights": [[round(value, 3) for value in row] for row in histogram.weights.tolist()],
        "noise": [None if value != value else round(value, 5) for value in noise],
    }


def histogram_of_json(value: Mapping[str, Any], num_classes: int) -> ScoreHistogram:
    """Read what `histogram_json` wrote.

    Raises:
        ValueError: it is no histogram of K classes.
    """
    try:
        weights = np.array(value["weights"], np.float64)
        noise = np.array([np.nan if n is None else n for n in value["noise"]], np.float64)
        images = int(value["images"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"is no histogram of scores ({error!r})") from error
    rows = num_classes + 1
    if weights.ndim != 2 or len(weights) != rows or noise.shape != (rows,) or images < 1:
        raise ValueError(f"is no histogram of the scores of {num_classes} classes")
    return ScoreHistogram(images=images, weights=weights, noise=noise)


def _quantile(shifts: Floats) -> Floats:
    """Give the quantile of each column. A column without a number is NaN."""
    known = ~np.isnan(shifts)
    filled = np.where(known, shifts, 1.0)  # a sample without boxes: as far as it can be
    values = np.quantile(filled, QUANTILE, axis=0)
    result: Floats = np.where(known.any(0), values, np.nan)
    return result


def _per_image(detections: Sequence[ImageDetections], num_classes: int, bins: int) -> Floats:
    """Sum the scores by image, class and bin: (N, K + 1, B)."""
    weights = np.zeros((len(detections), num_classes + 1, bins))
    for row, image in zip(weights, detections, strict=True):
        row[:] = sum_scores(image.labels, image.scores, num_classes, bins)
    return weights


def sum_scores(
    labels: npt.NDArray[np.integer[Any]],
    scores: npt.NDArray[np.floating[Any]],
    num_classes: int,
    bins: int = SHIFT_BINS,
) -> Floats:
    """Sum the scores (T,) of boxes by class and bin: (K + 1, B). Labels (T,) are 1..K."""
    sums = np.zeros((num_classes + 1, bins))
    weights = scores.astype(np.float64)
    places = np.clip((weights * bins).astype(np.int64), 0, bins - 1)
    np.add.at(sums, (labels.astype(np.int64), places), weights)
    sums[0] = sums[1:].sum(0)
    return sums


def score_shift(first: Floats, second: Floats) -> Floats:
    """Compute the shift (R,) between two histograms (R, B). NaN where one of them is empty.

    Example:
        All weight in the first of 10 bins, and all weight in the fourth: .3.
    """
    curves = [_cumulative(weights) for weights in (first, second)]
    shifts: Floats = np.abs(curves[0] - curves[1]).sum(-1) / first.shape[-1]
    return shifts


def _cumulative(weights: Floats) -> Floats:
    total = weights.sum(-1, keepdims=True)
    shares = np.divide(weights, total, out=np.full(weights.shape, np.nan), where=total > 0)
    cumulative: Floats = shares.cumsum(-1)
    return cumulative


def find_shifts(now: ScoreHistogram, calibrated: ScoreHistogram) -> list[Shift]:
    """List the classes whose scores differ by more than chance, the largest shift first.

    Args:
        now: the scores of the images that were scored.
        calibrated: those of the images of the calibration, with `noise`.

    The noise was measured for two samples of N images. The variance of a sample falls with its size, so for a
    sample of M images the limit is the noise times sqrt((1 / N + 1 / M) / (2 / N)).
    """
    if calibrated.noise is None or not now.images or not calibrated.images:
        return []
    shifts = score_shift(now.weights, calibrated.weights)
    ratio = np.sqrt((1 / calibrated.images + 1 / now.images) * calibrated.images / 2)
    limits = np.maximum(LEAST_SHIFT, MARGIN * calibrated.noise * ratio)
    enough = np.minimum(now.weights.sum(1), calibrated.weights.sum(1)) >= FEW_OBJECTS
    found = [
        Shift(
            label=label,
            shift=float(shifts[label]),
            limit=float(limits[label]),
            mean_before=_mean(calibrated.weights[label]),
            mean_now=_mean(now.weights[label]),
        )
        for label in np.flatnonzero(enough & (shifts > limits)).tolist()
    ]
    return sorted(found, key=lambda one: -one.shift)


def _mean(weights: Floats) -> float:
    """Give the mean score of a histogram (B,), by weight."""
    middles = (np.arange(len(weights)) + 0.5) / len(weights)
    return float(weights @ middles / weights.sum())
