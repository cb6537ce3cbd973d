"""Draws the section of a report that says whether scores can be relied on: reliability curves by class, and
the warning that the images look unlike those of the calibration.

It is markup without scripts: SVG with the colours of the page. All names are escaped.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from fastrcnn.metrics import Reliability, Shift
from pipeline.results.measures import EvaluationResult
from pipeline.results.shifts import CURE, describe

_BINS = 10
"""Bins of a curve: fewer than of the error, so that most have enough boxes."""
_FEW = 10
"""A point of fewer boxes is hollow: its share is luck."""
_SIDE = 150
_PAD = 26
_MOST = 24
"""Classes with a curve: those with the most boxes."""


def reliability_section(
    measured: EvaluationResult | None, shifts: Sequence[Shift], classes: Sequence[str]
) -> str:
    """Return the section; empty if there is nothing to say.

    Args:
        measured: the evaluation, if labels were given.
        shifts: differences between the scores of the run and those of its calibration.
        classes: of the run, for `shifts`.
    """
    parts = []
    if shifts:
        parts.append(f'<p class="notice">{_text(_sentence(describe(shifts, classes)))} {CURE}.</p>')
    if measured is not None and measured.reliability is not None:
        parts.append(_curves(measured, measured.reliability))
    if not parts:
        return ""
    return (
        '<section class="card" id="reliability"><h2>Can the scores be relied on?</h2>'
        f"{''.join(parts)}</section>"
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _curves(measured: EvaluationResult, counted: Reliability) -> str:
    errors, boxes = counted.errors, counted.boxes.sum(1)
    few = _merged(counted)
    order = [k for k in np.argsort(-boxes, kind="stable").tolist() if boxes[k]]
    pooled = measured.at_half.calibration_error
    lede = (
        "Each point is the boxes of about one tenth of the scores: how many of them are right, against what"
        " their scores say. On the line, scores mean what they say; below it, they promise too much. Hollow"
        f" points have fewer than {_FEW} boxes. The error averages the distance over all boxes, most of"
        " which have low scores."
    )
    whole = "" if np.isnan(pooled) else f" All classes together: error {pooled:.3f}."
    tiles = "".join(
        f'<figure class="reliability"><figcaption><bdi>{_text(measured.classes[k])}</bdi>: error'
        f" {errors[k]:.3f}, {boxes[k]:,} boxes</figcaption>{_curve(few, k)}</figure>"
        for k in order[:_MOST]
    )
    rest = len(order) - _MOST
    more = f'<p class="lede">And {rest} more classes, in metrics.json.</p>' if rest > 0 else ""
    return (
        f'<p class="lede">{_text(lede + whole)}</p><div class="reliabilities">{tiles}</div>{more}'
    )


def _merged(counted: Reliability) -> Reliability:
    """Sort the bins into `_BINS`, by the middle of each."""
    bins = counted.boxes.shape[1]
    places = ((np.arange(bins) + 0.5) / bins * _BINS).astype(int)
    onto = np.eye(_BINS, dtype=np.int64)[places]
    return Reliability(
        boxes=counted.boxes @ onto, right=counted.right @ onto, scores=counted.scores @ onto
    )


def _curve(counted: Reliability, k: int) -> str:
    points = []
    for boxes, right, scores in zip(
        counted.boxes[k].tolist(),
        counted.right[k].tolist(),
        counted.scores[k].tolist(),
        strict=True,
    ):
        if boxes:
            points.append((_x(scores / boxes), _y(right / boxes), boxes))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" stroke="currentColor"'
        f' fill="{"none" if boxes < _FEW else "currentColor"}"/>'
        for x, y, boxes in points
    )
    side = _SIDE + _PAD + 8
    frame = (
        f'<rect x="{_PAD}" y="4" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="currentColor"'
        ' stroke-opacity=".3"/>'
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="currentColor"'
        ' stroke-opacity=".45" stroke-dasharray="4 3"/>'
    )
    marks = "".join(
        f'<text x="{_PAD - 4}" y="{_y(share) + 4:.0f}" text-anchor="end" font-size="10"'
        f' fill="currentColor">{share:g}</text>'
        f'<text x="{_x(share):.0f}" y="{_y(0) + 14:.0f}" text-anchor="middle" font-size="10"'
        f' fill="currentColor">{share:g}</text>'
        for share in (0, 0.5, 1)
    )
    return (
        f'<svg viewBox="0 0 {side} {side}" width="{side}" height="{side}" role="img"'
        ' aria-label="share of right boxes (upwards) against score (to the right)">'
        f"{frame}{marks}"
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/>{dots}</svg>'
    )


def _x(share: float) -> float:
    return _PAD + _SIDE * share


def _y(share: float) -> float:
    return 4 + _SIDE * (1 - share)


def _text(value: object) -> str:
    return html.escape(str(value))
