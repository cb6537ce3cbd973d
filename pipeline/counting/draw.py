"""Chooses the images that a person will count: with replacement, by what the detector expects in them.

The method is DISCount's (Perez, Maji and Sheldon, AAAI 2024): an image is drawn with a probability in
proportion to its expected count. Three things are added. An image with a low expected count is drawn as if it
had the floor. Several classes share the draws. Each stratum has draws that are fixed beforehand.

Legend: H strata, K classes, B images in a batch, N images of a stratum, g expected counts, q probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MISSED_SHARE = 0.5
"""The floor of an image, in mean expected counts of its stratum. Then at most a third of the draws of a class
goes to images where nothing was seen. Less makes the upper ends of intervals further away; more takes draws
from the images with objects."""
POWER = 0.5
"""Draws are shared among classes and strata by this power of what is expected in them. With 1, a rare class
or a small prefix would get hardly any; with 0, the total would be imprecise (power allocation, Bankier
1988)."""
BY_IMAGES = 1 / 3
"""The share of the draws that strata get by their number of images. Without it, a large prefix in which
nothing was seen would get two draws, and these would not show that nothing is there."""
LEAST_DRAWS = 2
"""Draws of each stratum. With one, its variance would be unknown."""


def floors_for(expected: Floats, images: Ints) -> Floats:
    """Return the floor (H, K) of each stratum and class, in objects of an image.

    Where nothing is expected, the floor is that of one object in the whole stratum.

    Args:
        expected: (H, K) sums of the expected counts.
        images: (H,) numbers of images.
    """
    floors: Floats = MISSED_SHARE * np.maximum(expected, 1.0) / np.maximum(images, 1)[:, None]
    return floors


def class_shares(masses: Floats) -> Floats:
    """Return the share (H, K) of each class in the draws of a stratum. Each row sums to 1."""
    powers = masses**POWER
    shares: Floats = powers / powers.sum(1, keepdims=True)
    return shares


def allocate(masses: Floats, images: Ints, budget: int) -> Ints:
    """Return the number of draws (H,) of each stratum. They sum to `budget`.

    Args:
        masses: (H,) expected counts of each stratum, with floors. Above 0 where there are images.
        images: (H,) numbers of images. A stratum without images gets no draw.
        budget: the number of all draws.

    Raises:
        ValueError: the budget is below `LEAST_DRAWS` for each stratum with images.
    """
    open_ = images > 0
    least = np.where(open_, LEAST_DRAWS, 0)
    free = budget - int(least.sum())
    if free < 0 or not open_.any():
        raise ValueError(
            f"{budget} draws are not {LEAST_DRAWS} for each of {int(open_.sum())} strata"
        )
    powers = np.where(open_, masses**POWER, 0.0)
    shares = (1 - BY_IMAGES) * powers / powers.sum() + BY_IMAGES * images / images.sum()
    wished = free * shares
    draws = np.floor(wished).astype(np.int64)
    rest = free - int(draws.sum())
    draws[np.argsort(draws - wished, kind="stable")[:rest]] += 1  # the largest remainders
    allocated: Ints = draws + least
    return allocated


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """How the probability of an image follows from its expected counts."""

    floors: Floats
    """(H, K) objects of an image."""
    masses: Floats
    """(H, K) sum of max(g, floor) over the images of the stratum."""

    def probabilities(self, expected: Floats, strata: Ints) -> Floats:
        """Return the probability (B,) of each image in one draw of its stratum.

        Each class has a share of the draws, and draws images in proportion to max(g, floor).

        Args:
            expected: (B, K) expected counts g.
            strata: (B,) the stratum of each image.
        """
        lifted = np.maximum(expected, self.floors[strata])
        factors = class_shares(self.masses) / self.masses
        probabilities: Floats = (lifted * factors[strata]).sum(1)
        return probabilities

    def smallest(self) -> Floats:
        """Return the probability (H,) of an image of each stratum where nothing was seen."""
        nothing = np.zeros_like(self.floors)
        return self.probabilities(nothing, np.arange(len(self.floors)))


class Walk:
    """Draws images while the probabilities pass by once, in batches. It keeps the draws in memory.

    Random thresholds between 0 and 1 are sorted for each stratum. An image is drawn as often as thresholds
    lie between the sum of the probabilities before it and the sum with it.

    Args:
        draws: (H,) the number of draws of each stratum.
        seed: the same seed and the same images give the same draws.
    """

    def __init__(self, draws: Sequence[int], seed: int) -> None:
        self._thresholds = [
            np.sort(np.random.default_rng((seed, stratum)).random(number))
            for stratum, number in enumerate(draws)
        ]
        self._sums = np.zeros(len(draws))
        self._next = np.zeros(len(draws), np.int64)
        self._last: dict[int, tuple[int, float]] = {}
        self._rows: list[Ints] = []
        self._probabilities: list[Floats] = []
        self._strata: list[Ints] = []

    def pass_by(self, rows: Ints, strata: Ints, probabilities: Floats) -> None:
        """Draw from a batch of images: their row numbers, strata and probabilities, each (B,)."""
        order = np.argsort(strata, kind="stable")
        present, starts = np.unique(strata[order], return_index=True)
        for stratum, places in zip(present, np.split(order, starts[1:]), strict=True):
            sums = self._sums[stratum] + np.cumsum(probabilities[places])
            first, thresholds = self._next[stratum], self._thresholds[stratum]
            end = int(np.searchsorted(thresholds, sums[-1]))
            hit = places[np.searchsorted(sums, thresholds[first:end], side="right")]
            self._keep(rows[hit], probabilities[hit], int(stratum))
            self._next[stratum], self._sums[stratum] = end, sums[-1]
            self._last[int(stratum)] = (int(rows[places[-1]]), float(probabilities[places[-1]]))

    def finish(self) -> tuple[Ints, Ints, Floats]:
        """Return the row, the stratum and the probability (n,) of each draw, stratum by stratum."""
        for stratum, (row, probability) in self._last.items():
            # The sum of all probabilities may end a little below 1.
            rest = len(self._thresholds[stratum]) - int(self._next[stratum])
            self._keep(np.full(rest, row), np.full(rest, probability), stratum)
            self._next[stratum] += rest
        rows, strata, probabilities = (
            np.concatenate(parts) if parts else np.zeros(0)
            for parts in (self._rows, self._strata, self._probabilities)
        )
        order = np.argsort(strata, kind="stable")
        drawn: Floats = probabilities[order].astype(np.float64)
        return rows[order].astype(np.int64), strata[order].astype(np.int64), drawn

    def _keep(self, rows: Ints, probabilities: Floats, stratum: int) -> None:
        self._rows.append(rows)
        self._probabilities.append(probabilities)
        self._strata.append(np.full(len(rows), stratum))
