"""Joins rounds of counted draws into the total of each region.

A region is the folder of all images, or a prefix below it. Where it is a union of strata, its cells are the
strata. A prefix inside a stratum has the draws that fell into it: given their number, they are draws of that
prefix, with probabilities that sum to 1 in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.counting import Cell, Estimate, Interval, bootstrap, estimate
from pipeline.errors import UserError
from pipeline.results.sampled import Sample

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """A sample and what was counted in its images."""

    sample: Sample
    counts: Floats
    """(n, K) objects of each draw: the counted classes, and their sum."""

    @property
    def weights(self) -> Floats:
        """What one object of each draw (n,) adds to the total."""
        sample = self.sample
        weights: Floats = 1 / (sample.rows["probability"].to_numpy() * float(sample.rows.num_rows))
        return weights

    def draws_by_prefix(self, depth: int) -> dict[str, Ints]:
        """Return the draws in each prefix that has draws."""
        places: dict[str, list[int]] = {}
        for draw, uri in enumerate(self.sample.rows["image_uri"].to_pylist()):
            places.setdefault(self.sample.frame.prefix_of(uri, depth), []).append(draw)
        return {prefix: np.array(draws) for prefix, draws in places.items()}

    def strata_cells(self, prefix: str, depth: int) -> list[Cell]:
        """Return the strata that make up a prefix which is not deeper than they are."""
        frame, strata, within = self.sample.frame, self.sample.strata, self.sample.within()
        smallest = frame.design.smallest()
        return [
            Cell(
                values=self.counts[strata == number] / within[strata == number, None],
                largest=float(1 / smallest[number]),
            )
            for number, name in enumerate(frame.prefixes)
            if frame.images[number] and frame.prefix_of(name, depth) == prefix
        ]

    def inner_cell(self, prefix: str, inside: Ints, mass: float) -> Cell:
        """Return the draws in a prefix that lies inside a stratum.

        Args:
            prefix: the prefix.
            inside: the draws that fell into it.
            mass: the sum of the probabilities of its images in a draw of the stratum.
        """
        frame = self.sample.frame
        stratum = frame.prefixes.index(frame.prefix_of(prefix, frame.by))
        return Cell(
            values=self.counts[inside] * mass / self.sample.within()[inside, None],
            largest=float(mass / frame.design.smallest()[stratum]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A region, its images, and its total."""

    scope: str
    """`total` or `prefix`."""
    prefix: str
    images: int
    others: int
    """Images that nobody looked at."""
    expected: Floats
    """(K,) sums of the scores."""
    draws: int
    """Draws in it, of all rounds."""
    result: Estimate | None
    """None: unknown."""
    bootstrap: Interval | None


def check_rounds(samples: Sequence[Sample]) -> None:
    """Raise UserError if the rounds cannot be joined: they must be of one run, one state of it and different
    seeds."""
    first = samples[0]
    for number, other in enumerate(samples[1:], 1):
        pair = f"--sample {first.uri} {other.uri}"
        if other.run_id != first.run_id:
            raise UserError(
                pair,
                f"were drawn from different runs, {first.run_id} and {other.run_id}",
                "Give rounds of one run.",
            )
        if other.seed in [sample.seed for sample in samples[:number]]:
            raise UserError(
                f"{pair}",
                f"two rounds have the seed {other.seed}, so they drew the same images",
                "Draw the second round with another --seed.",
            )
        mine, theirs = first.frame, other.frame
        if (mine.root, mine.classes) != (theirs.root, theirs.classes) or (
            sum(mine.images),
            sum(mine.others),
        ) != (sum(theirs.images), sum(theirs.others)):
            raise UserError(
                pair,
                f"count different things: {', '.join(mine.classes)} in {sum(mine.images)} images of"
                f" {mine.root}, and {', '.join(theirs.classes)} in {sum(theirs.images)} images of"
                f" {theirs.root}",
                "Estimate each by itself, or draw the rounds from one state of the run with the same"
                " --classes.",
            )


def join_rounds(cells: Sequence[Sequence[Cell]]) -> list[Cell]:
    """Join the cells of a region from several rounds. A round has the weight of its draws there.

    Weights that looked at the counts would bias the total. A round without two draws in each cell is left
    out.
    """
    known = [one for one in cells if one and min(len(cell.values) for cell in one) >= 2]
    numbers = [sum(len(cell.values) for cell in one) for one in known]
    return [
        cell.scaled(number / sum(numbers))
        for one, number in zip(known, numbers, strict=True)
        for cell in one
    ]


def measure(
    rounds: Sequence[Round], cells: Sequence[Sequence[Cell]], inside: Sequence[Ints], images: int
) -> tuple[Estimate | None, Interval | None]:
    """Return the total of a region and the bootstrap's interval. None means unknown.

    Args:
        rounds: all rounds.
        cells: the cells of the region in each round.
        inside: the draws in the region, for each round.
        images: the number of its images.
    """
    joined = join_rounds(cells)
    counted: dict[str, Floats] = {}
    for one, draws in zip(rounds, inside, strict=True):
        uris = one.sample.rows["image_uri"].take(draws).to_pylist()
        counted.update(zip(uris, one.counts[draws], strict=True))
    columns = rounds[0].counts.shape[1]
    sums = np.sum(list(counted.values()), 0) if counted else np.zeros(columns)
    uncounted = images - len(counted)
    result = estimate(joined, sums, uncounted)
    if result is None or uncounted == 0:
        return result, None if result is None else result.interval
    return result, bootstrap(joined, 0)
