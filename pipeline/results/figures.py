"""Computes the numbers of a report. They are aggregates, so they stay small for a run of any size.

All values are JSON types. Lists by class are in the order of the detector's classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from pipeline.results.tables import RunTables

SCORE_BINS = 100
SIZE_BINS = 28
"""Bins of sqrt(width * height): bin b is 2^(b/2) to 2^((b+1)/2) pixels. The last bin has no upper end."""
_TIME_BINS = 120
"""The largest number of bins in the chart of throughput."""
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
_HOURS = (1, 2, 3, 6, 12, 24, 48, 168, 720)
_TIME_STEPS_S = (*_SECONDS, *(hours * 3600 for hours in _HOURS))
"""Widths of a bin of time, in seconds."""
_PER_IMAGE = (0, 1, 2, 3, 4, 5, 6, 11, 21, 51, 101)
"""The first number of boxes in each bin of boxes per image."""
_CAUSES = 40
"""Causes that the page lists; the others are counted."""
_EXAMPLES = 3
"""Example images of each cause."""

_BY_SCORE = f"""
SELECT label, least({SCORE_BINS - 1}, floor(score * {SCORE_BINS}))::INTEGER, count(*)
FROM boxes GROUP BY ALL"""
_BY_SIZE = f"""
SELECT label, least({SIZE_BINS - 1}, floor(log2(greatest(1, (x_max - x_min) * (y_max - y_min)))))::INTEGER,
    count(*)
FROM boxes GROUP BY ALL"""
# Errors are grouped by cause: numbers and hexadecimal ETags, which differ from image to image, become #.
_BY_CAUSE = f"""
SELECT status, regexp_replace(words, '\\b[0-9a-f]*[0-9][0-9a-f]*\\b', '#', 'g') AS cause,
    count(*) AS images, min(words), arg_min(image_uri, hash(row), {_EXAMPLES})
FROM (
    SELECT *, left(replace(replace(error, image_uri || ': ', ''), image_uri, '…'), 300) AS words
    FROM images WHERE (status = 'ok') = $1 AND (error IS NOT NULL OR NOT $1))
GROUP BY ALL ORDER BY images DESC, status, cause"""


def figures(tables: RunTables) -> dict[str, Any]:
    """Return all numbers, by the names that the script of the page uses."""
    ((boxes, with_boxes),) = tables.rows("SELECT count(*), count(DISTINCT row) FROM boxes")
    return {
        "classes": list(tables.classes),
        "images": tables.num_images,
        "older_rows": tables.num_rows - tables.num_images,
        "boxes": boxes,
        "images_with_boxes": with_boxes,
        "statuses": tables.rows(
            "SELECT status, count(*) FROM images GROUP BY 1 ORDER BY 2 DESC, 1"
        ),
        "class_images": _class_images(tables),
        "scores": _histograms(tables, tables.rows(_BY_SCORE), SCORE_BINS),
        "sizes": _histograms(tables, tables.rows(_BY_SIZE), SIZE_BINS),
        "per_image": _per_image(tables),
        "throughput": _throughput(tables),
        "failures": _causes(tables, ok=False),
        "notes": _causes(tables, ok=True),
    }


def _class_images(tables: RunTables) -> list[int]:
    """Count the images with at least one box of each class."""
    query = "SELECT label, count(*) FROM (SELECT DISTINCT label, row FROM boxes) GROUP BY 1"
    counts = dict(tables.rows(query))
    return [counts.get(name, 0) for name in tables.classes]


def _histograms(
    tables: RunTables, rows: Iterable[tuple[Any, ...]], num_bins: int
) -> list[list[int]]:
    """Turn rows (label, bin, count) into counts by class and bin, (K, num_bins)."""
    histograms = {name: [0] * num_bins for name in tables.classes}
    for label, place, count in rows:
        histograms[label][max(0, place)] += count
    return list(histograms.values())


def _per_image(tables: RunTables) -> dict[str, Any]:
    """Count the images by their number of boxes."""
    counts = [0] * len(_PER_IMAGE)
    query = "SELECT num_detections, count(*) FROM images WHERE status = 'ok' GROUP BY 1"
    for number, images in tables.rows(query):
        counts[max(i for i, first in enumerate(_PER_IMAGE) if first <= number)] += images
    names = [
        f"{first}" if last == first + 1 else f"{first}–{last - 1}"
        for first, last in pairwise(_PER_IMAGE)
    ]
    return {"names": [*names, f"{_PER_IMAGE[-1]}+"], "counts": counts}


def _throughput(tables: RunTables) -> dict[str, Any] | None:
    """Count the images by the time when they were scored. Returns None if no row has a time.

    Rows with status `changed` are left out, because they have the time of the plan.
    """
    when = "FROM images WHERE status <> 'changed' AND scored_at IS NOT NULL"
    ((first, last),) = tables.rows(f"SELECT min(scored_at), max(scored_at) {when}")
    if first is None:
        return None
    span = (last - first).total_seconds()
    step = next((s for s in _TIME_STEPS_S if span < s * _TIME_BINS), _TIME_STEPS_S[-1])
    start = int(first.replace(tzinfo=UTC).timestamp()) // step * step
    rows = tables.rows(
        f"SELECT (epoch(scored_at) - $1)::BIGINT // $2, status = 'ok', count(*) {when} GROUP BY ALL",
        (start, step),
    )
    num_bins = 1 + max(place for place, _, _ in rows)
    by_time = {ok: [0] * num_bins for ok in (True, False)}
    for place, ok, count in rows:
        by_time[ok][place] += count
    return {
        "start": datetime.fromtimestamp(start, UTC).isoformat(),
        "step_s": step,
        "ok": by_time[True],
        "failed": by_time[False],
    }


def _causes(tables: RunTables, *, ok: bool) -> dict[str, Any]:
    """Count the images by the text in column `error`.

    Args:
        tables: the run.
        ok: count the notes on images with status `ok`; else count the causes of the other statuses.
    """
    rows = tables.rows(_BY_CAUSE, (ok,))
    shown = [
        {
            "status": status,
            # For one image, its whole text. For several, the text that they share.
            "cause": (words if images == 1 else cause) or "no cause was recorded",
            "images": images,
            "examples": sorted(examples),
        }
        for status, cause, images, words, examples in rows[:_CAUSES]
    ]
    rest = rows[_CAUSES:]
    return {
        "causes": shown,
        "more_causes": len(rest),
        "more_images": sum(row[2] for row in rest),
    }
