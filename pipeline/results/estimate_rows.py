"""Makes the rows of estimates.parquet, and looks for weights that are too large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.counting import more_draws
from pipeline.results.rounds import Region, Round

TOO_LARGE = 0.1
"""A draw that makes this share of a total shows that the detector misses more than the floor says."""


def as_rows(
    regions: Sequence[Region], classes: Sequence[str], width: float | None
) -> list[dict[str, Any]]:
    """Return the rows of ESTIMATES. With one class there is no row for all classes."""
    columns: list[tuple[int, str | None]] = list(enumerate(classes))
    if len(classes) > 1:
        columns.insert(0, (len(classes), None))
    return [_row(region, column, label, width) for region in regions for column, label in columns]


def _row(region: Region, column: int, label: str | None, width: float | None) -> dict[str, Any]:
    result, again = region.result, region.bootstrap
    row: dict[str, Any] = {
        "scope": region.scope,
        "prefix": region.prefix,
        "label": label,
        "expected": float(region.expected[column]),
        "draws": region.draws,
        "images": region.images,
        "uncovered": region.others / max(region.images + region.others, 1),
    }
    if result is not None and again is not None:
        row |= {
            "total": float(result.total[column]),
            "low": float(result.interval.low[column]),
            "high": float(result.interval.high[column]),
            "standard_error": float(result.standard_error[column]),
            "bootstrap_low": float(again.low[column]),
            "bootstrap_high": float(again.high[column]),
            "more_draws": None if width is None else more_draws(result, width)[column],
        }
    return row


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """The draw whose objects add most to the total."""

    image_uri: str | None
    """None: no object was counted."""
    weight: float
    """What one object in it adds to the total of its round."""
    share: float
    """What all its objects add to the total, as a share."""
    warning: str
    """Empty if the share is small."""


def largest_weight(rounds: Sequence[Round], total: Region) -> Weight:
    """Find the draw with objects that adds most to the total of all images."""
    best = (0.0, 0.0, "")
    for one in rounds:
        added = one.weights * one.counts[:, -1]
        place = int(np.argmax(added))
        if added[place] > best[0]:
            best = (
                float(added[place]),
                float(one.weights[place]),
                one.sample.rows["image_uri"][place].as_py(),
            )
    if total.result is None or not best[0]:
        return Weight(image_uri=None, weight=0.0, share=0.0, warning="")
    # In a join of rounds, a round counts by its draws; so does its draw.
    share = best[0] / (float(total.result.total[-1]) * len(rounds))
    warning = ""
    if share > TOO_LARGE:
        warning = (
            f"one draw makes {share:.0%} of the total ({best[2]}): the detector expects much less there than"
            " was counted. The floor may be too low, and the interval too narrow. Draw a second round with"
            " another --seed and a larger --floor, and give both"
        )
    return Weight(image_uri=best[2], weight=best[1], share=share, warning=warning)
