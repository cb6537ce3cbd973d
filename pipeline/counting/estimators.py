"""Totals from counted draws, with intervals.

A draw of image i with probability q_i and the count f_i gives f_i / q_i. Its mean over the draws is the total
of its stratum, without bias, whatever the detector did (Hansen and Hurwitz 1943). A region is a sum of cells:
a cell is a stratum, or a part of one. The sum of their variances gives the standard error.

The interval reaches from t standard errors below to sqrt((t se)^2 + (3 u)^2) above. u is what one object adds
to the total if it lies in an image of the smallest probability. Draws that show no such object do not prove
that there is none: with 95% confidence there are up to 3 in n draws (the rule of three, Hanley and
Lippman-Hand 1983). Without this term, the upper end is too low where a detector misses all objects of an
image, and the interval of draws without any object would be 0 to 0. `MOST_MISSED` bounds it.

Legend: n draws of a cell, K columns of counts (classes, and their sum), R repetitions of a bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z = 1.959964
"""The quantile of the normal distribution for intervals of 95%."""
UNSEEN = 3.0
"""Draws that an unseen kind of image may have had: -log(.05) = 3.0."""
MOST_MISSED = 1.0
"""The most that such images may add, in upper ends without them. It says that a detector whose objects were
confirmed finds at least half of all objects. Without it, no budget would do for a rare class. Where no object
was counted, the rule of three stands alone."""
REPETITIONS = 1000
"""Repetitions of a bootstrap."""
_AT_ONCE = 2_000_000
"""Numbers of a bootstrap that are in memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The draws of a stratum, or of a part of it."""

    values: Floats
    """(n, K) count / probability of each draw."""
    largest: float
    """1 / probability of an image where nothing was seen."""

    def scaled(self, factor: float) -> Cell:
        """Return the cell of a round that has a share `factor` in the result."""
        return Cell(values=self.values * factor, largest=self.largest * factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """The lower and the upper end, each (K,)."""

    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """The total of a region for each column of counts."""

    total: Floats
    """(K,)"""
    standard_error: Floats
    """(K,)"""
    interval: Interval
    """95%."""
    quantile: Floats
    """(K,) standard errors in the lower half of the interval."""
    unseen: Floats
    """(K,) objects that may be there although no draw showed them."""
    draws: int


def estimate(cells: Sequence[Cell], counted: Floats, uncounted: int) -> Estimate | None:
    """Estimate the total of a region. None means unknown: a cell has fewer than two draws.

    Args:
        cells: the parts of the region. Together they are all of it.
        counted: (K,) objects that were counted in it, each image once. No less can be in it.
        uncounted: the number of its images that were not drawn. With 0, the total is what was counted.
    """
    if not cells or min(len(cell.values) for cell in cells) < 2:
        return None
    if uncounted == 0:
        cells = [Cell(values=np.stack([counted, counted]), largest=0.0)]
    numbers = np.array([len(cell.values) for cell in cells], np.float64)
    total = np.sum([cell.values.mean(0) for cell in cells], 0)
    variances = np.array([cell.values.var(0, ddof=1) / len(cell.values) for cell in cells])
    error = np.sqrt(variances.sum(0))
    # Welch and Satterthwaite: the degrees of freedom of a sum of variances
    spread = (variances**2 / (numbers - 1)[:, None]).sum(0)
    exact = error == 0
    freedom = np.where(exact, numbers.sum() - len(cells), error**4 / np.where(exact, 1, spread))
    quantile = np.array([student_quantile(float(number)) for number in freedom])
    plain = total + quantile * error
    unseen = _unseen(cells, plain, uncounted)
    low = np.minimum(np.maximum(total - quantile * error, counted), total)
    high = np.maximum(total + np.hypot(quantile * error, unseen), counted)
    return Estimate(
        total=total,
        standard_error=error,
        interval=Interval(low=low, high=high),
        quantile=quantile,
        unseen=unseen,
        draws=int(numbers.sum()),
    )


def _unseen(cells: Sequence[Cell], plain: Floats, uncounted: int) -> Floats:
    """Return the objects (K,) that may be there although no draw showed them.

    Args:
        plain: (K,) the upper end without them; 0 if no object was counted.
    """
    rule_of_three = UNSEEN * max(cell.largest / len(cell.values) for cell in cells)
    supposed = np.where(plain > 0, MOST_MISSED * plain, np.inf)
    return np.minimum(min(rule_of_three, uncounted), supposed)


def student_quantile(freedom: float) -> float:
    """Return the 97.5% quantile of Student's t distribution (Hill 1970, Comm. ACM algorithm 396).

    Its error is below .002 from 2 degrees of freedom on. Between 1 and 2 it is too large, which is safe.
    """
    if freedom <= 2:  # linear between the exact values for 1 and 2
        return 12.7062 - (12.7062 - 4.3027) * (max(freedom, 1.0) - 1.0)
    tail = 0.05  # both tails
    a = 1 / (freedom - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * freedom
    y = (d * tail) ** (2 / freedom)
    if y > 0.05 + a:
        x = -Z
        y = x * x
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = (
            (1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3))
            + 0.5 / (freedom + 4)
        ) * y - 1
        y = y * (freedom + 1) / (freedom + 2) + 1 / ((d * tail) ** (2 / freedom))
    return math.sqrt(freedom * y)


def bootstrap(cells: Sequence[Cell], seed: int) -> Interval:
    """Return the interval between the 2.5% and 97.5% percentiles of totals of draws that are drawn again.

    It needs no formula, but it sees only what the draws show: it lacks the term for what they do not show.
    """
    columns = cells[0].values.shape[1]
    totals = np.zeros((REPETITIONS, columns))
    for number, cell in enumerate(cells):
        n = len(cell.values)
        random = np.random.default_rng((seed, number))
        step = max(1, _AT_ONCE // n)
        for first in range(0, REPETITIONS, step):
            rows = min(step, REPETITIONS - first)
            weights = random.multinomial(n, np.full(n, 1 / n), size=rows)  # (rows, n)
            totals[first : first + rows] += weights @ cell.values / n
    low, high = np.percentile(totals, (2.5, 97.5), axis=0)
    return Interval(low=low, high=high)


def more_draws(result: Estimate, width: float) -> list[int | None]:
    """Return the number of further draws until high - low is `width` times the total, for each column.

    None means that no number can be told, because the total is 0. The draws are meant to be shared out as
    before.
    """
    numbers: list[int | None] = []
    for total, error, quantile, unseen in zip(
        result.total, result.standard_error, result.quantile, result.unseen, strict=True
    ):
        wished = width * float(total)
        if wished <= 0:
            numbers.append(None)
            continue
        half = min(float(quantile), 2.0) * float(error)
        # Standard errors fall with the root of the draws, the unseen share with the draws.
        low, high = 1.0, 1.0
        while _width(half, float(unseen), high) > wished:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (low, middle) if _width(half, float(unseen), middle) <= wished else (middle, high)
            )
        numbers.append(math.ceil(result.draws * (high - 1) - 1e-6))
    return numbers


def _width(half: float, unseen: float, times: float) -> float:
    """Return high - low after `times` as many draws."""
    lower = half / math.sqrt(times)
    return lower + math.hypot(lower, unseen / times)
