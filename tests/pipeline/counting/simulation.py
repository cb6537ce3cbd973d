"""Draws and estimates drawn worlds 1,000 times, for the tests and for the table in docs/counts.md.

python -m tests.pipeline.counting.simulation 200 1000
python -m tests.pipeline.counting.simulation crowds 200 500
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline.counting import Cell, Design, allocate, estimate, floors_for

Floats = npt.NDArray[np.float64]
MANY = 10**9
"""More images than were counted."""
FAULTS = ("missed", "doubled", "confused")
REPEATED = 1000


@dataclass(frozen=True, kw_only=True)
class World:
    """Five prefixes of 10,000 images; nothing is in the first. Classes: common, medium, rare."""

    truth: Floats
    """(N, 3)"""
    expected: Floats
    """(N, 3)"""
    strata: npt.NDArray[np.int64]


def world(fault: str, seed: int = 1, images: int = 50_000) -> World:
    """A tenth of the images have objects, of one class each; .4% of them have the rare class."""
    random = np.random.default_rng(seed)
    shares = (0.07, 0.028, 0.004)
    kind = random.choice(4, images, p=[1 - sum(shares), *shares])
    strata = np.arange(images) * 5 // images
    kind[strata == 0] = 0
    truth = np.zeros((images, 3), np.int64)
    for number, mean in enumerate((2.0, 1.0, 0.3)):
        of_kind = kind == number + 1
        truth[of_kind, number] = 1 + random.poisson(mean, of_kind.sum())
    faulty = random.binomial(truth, 0.2)
    seen = {
        "missed": truth - faulty,
        "doubled": truth + faulty,
        "confused": truth - faulty + np.roll(faulty, 1, 1),
    }[fault].astype(np.float64)
    seen += random.random(seen.shape) < 0.01  # boxes where nothing is
    return World(
        truth=truth.astype(np.float64),
        expected=seen * random.uniform(0.7, 1.0, seen.shape),
        strata=strata,
    )


def crowds(seed: int, images: int = 20_000) -> World:
    """Images with up to 3,000 objects of the first class (Pareto, 1.3), and a detector that stops at 100."""
    random = np.random.default_rng(seed)
    truth = np.zeros((images, 3))
    truth[:, 0] = np.minimum((random.pareto(1.3, images) * 2).astype(int), 3000)
    truth[random.random(images) < 0.7] = 0
    return World(
        truth=truth,
        expected=np.minimum(truth, 100) * random.uniform(0.7, 1, truth.shape),
        strata=np.zeros(images, np.int64),
    )


@cache
def repeated(fault: str, budget: int, by_prefix: bool) -> dict[str, Floats]:
    """Draw and estimate 1,000 times: the truth, totals, low and high ends of each class and the sum."""
    return measured(world(fault), budget, by_prefix)


def measured(drawn: World, budget: int, by_prefix: bool) -> dict[str, Floats]:
    """Draw from one world and estimate, 1,000 times."""
    strata = drawn.strata if by_prefix else np.zeros_like(drawn.strata)
    number = int(strata.max()) + 1
    images = np.bincount(strata)
    sums = np.array([drawn.expected[strata == h].sum(0) for h in range(number)])
    floors = floors_for(sums, images)
    lifted = np.maximum(drawn.expected, floors[strata])
    masses = np.array([lifted[strata == h].sum(0) for h in range(number)])
    design = Design(floors=floors, masses=masses)
    q = design.probabilities(drawn.expected, strata)
    draws = allocate(masses.sum(1), images, budget)
    truth = np.concatenate([drawn.truth, drawn.truth.sum(1, keepdims=True)], 1)
    random = np.random.default_rng(2)
    values = []
    for h in range(number):
        places = np.flatnonzero(strata == h)
        ends = np.cumsum(q[places])
        assert abs(ends[-1] - 1) < 1e-9
        hit = places[np.searchsorted(ends, random.random((REPEATED, draws[h])) * ends[-1])]
        values.append(truth[hit] / q[hit][..., None])
    largest = 1 / design.smallest()
    results = [
        estimate(
            [Cell(values=v[r], largest=float(largest[h])) for h, v in enumerate(values)],
            np.zeros(4),
            MANY,
        )
        for r in range(REPEATED)
    ]
    known = [result for result in results if result is not None]
    assert len(known) == REPEATED
    return {
        "truth": truth.sum(0),
        "total": np.array([result.total for result in known]),
        "error": np.array([result.standard_error for result in known]),
        "low": np.array([result.interval.low for result in known]),
        "high": np.array([result.interval.high for result in known]),
    }


def coverage(drawn: dict[str, Floats]) -> Floats:
    """The share of the intervals that cover the truth, by class and for their sum."""
    inside = (drawn["low"] <= drawn["truth"]) & (drawn["truth"] <= drawn["high"])
    shares: Floats = inside.mean(0)
    return shares


def uniform_labels(fault: str, drawn: dict[str, Floats]) -> Floats:
    """The labels of a uniform sample for intervals of the median width: 2 * 1.96 N s / sqrt(n)."""
    width = np.median(drawn["high"] - drawn["low"], 0)
    truth = world(fault).truth
    counts = np.concatenate([truth, truth.sum(1, keepdims=True)], 1)
    labels: Floats = (2 * 1.96 * len(counts) * counts.std(0) / width) ** 2
    return labels


def main() -> None:
    """Write a line for each detector, budget and stratification; or for each budget of `crowds`."""
    if sys.argv[1] == "crowds":
        for budget in map(int, sys.argv[2:]):
            covered = [coverage(measured(crowds(seed), budget, False))[0] for seed in range(1, 7)]
            sys.stdout.write(f"crowds, {budget} draws, six worlds: covered {np.sort(covered)}\n")
        return
    for budget in map(int, sys.argv[1:]):
        for fault in FAULTS:
            for by_prefix in (False, True):
                drawn = repeated(fault, budget, by_prefix)
                figures = {
                    "covered": coverage(drawn),
                    "standard error": drawn["total"].std(0) / drawn["truth"],
                    "width": np.median(drawn["high"] - drawn["low"], 0) / drawn["truth"],
                    "uniform labels": uniform_labels(fault, drawn) / budget,
                }
                plain = np.abs(drawn["total"] - drawn["truth"]) <= 1.96 * drawn["error"]
                figures["covered by 1.96 standard errors"] = plain.mean(0)
                words = "; ".join(f"{name} {values.round(3)}" for name, values in figures.items())
                strata = "five strata" if by_prefix else "one stratum"
                sys.stdout.write(f"{fault}, {budget} draws, {strata}: {words}\n")


if __name__ == "__main__":
    main()
