"""Computes the numbers of a report. They are aggregates, so they stay small for a run of any size.

All values are JSON types. Lists by class are in the order of the detector's classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

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

# Scores are float32, and so are the bounds of bins: a score of .53 is in the bin that begins with .53.
# floor(score * 100) alone would put it into the bin before.
_PLACE = f"""
CASE WHEN score >= ((floor(score * {SCORE_BINS}) + 1) / {SCORE_BINS}.0::DOUBLE)::FLOAT
        THEN floor(score * {SCORE_BINS}) + 1
    WHEN score < (floor(score * {SCORE_BINS}) / {SCORE_BINS}.0::DOUBLE)::FLOAT
        THEN floor(score * {SCORE_BINS}) - 1
    ELSE floor(score * {SCORE_BINS}) END"""
_BIN = f"greatest(0, least({SCORE_BINS - 1}, {_PLACE}))::INTEGER"
_BY_SCORE = f"SELECT label, {_BIN}, count(*) FROM boxes GROUP BY ALL"
# The boxes of a class that lie in the bin of its point, and not below the point.
_AT_POINT = f"""
SELECT label, count(*) FROM shown JOIN (SELECT class, {_BIN} AS place FROM points) AS places
ON shown.label = places.class WHERE {_BIN} = places.place GROUP BY 1"""
_BY_SIZE = f"""
SELECT label, least({SIZE_BINS - 1}, floor(log2(greatest(1, (x_max - x_min) * (y_max - y_min)))))::INTEGER,
    count(*)
FROM shown GROUP BY ALL"""
# An image counts in the bin of its highest score, for each class and for all classes (label null). So the
# number of images with a box from a score on is a sum over bins.
_IMAGES_BY_SCORE = f"""
SELECT label, {_BIN} AS place, count(*)
FROM (SELECT label, max(score) AS score FROM boxes GROUP BY row, label
      UNION ALL SELECT NULL, max(score) FROM boxes GROUP BY row)
GROUP BY ALL"""
_COUNT_PER_IMAGE = """
SELECT coalesce(number, 0), count(*)
FROM images LEFT JOIN (SELECT row, count(*) AS number FROM shown GROUP BY 1) USING (row)
WHERE status = 'ok' GROUP BY 1"""
# Errors are grouped by cause: numbers and hexadecimal ETags, which differ from image to image, become #.
_BY_CAUSE = f"""
SELECT status, regexp_replace(words, '\\b[0-9a-f]*[0-9][0-9a-f]*\\b', '#', 'g') AS cause,
    count(*) AS images, min(words), arg_min(image_uri, hash(row), {_EXAMPLES})
FROM (
    SELECT *, left(replace(replace(error, image_uri || ': ', ''), image_uri, '…'), 300) AS words
    FROM images WHERE (status = 'ok') = $1 AND (error IS NOT NULL OR NOT $1))
GROUP BY ALL ORDER BY images DESC, status, cause"""


def figures(tables: RunTables) -> dict[str, Any]:
    """Return all numbers, by the names that the script of the page uses.

    `boxes`, `scores`, `image_scores` and `best_scores` count all boxes; the other counts of boxes are those
    of the table `shown`.
    """
    by_best = tables.rows(_IMAGES_BY_SCORE)
    ((boxes,),) = tables.rows("SELECT count(*) FROM boxes")
    ((shown, with_boxes),) = tables.rows("SELECT count(*), count(DISTINCT row) FROM shown")
    points = dict(tables.rows("SELECT class, score FROM points"))
    bins = dict(tables.rows(f"SELECT class, {_BIN} FROM points"))
    return {
        "classes": list(tables.classes),
        "images": tables.num_images,
        "older_rows": tables.num_rows - tables.num_images,
        "boxes": boxes,
        "points": [shortest(points[name]) for name in tables.classes],
        "point_bins": [bins[name] for name in tables.classes],
        "at_points": _by_class(tables, _AT_POINT),
        "shown": shown,
        "class_shown": _by_class(tables, "SELECT label, count(*) FROM shown GROUP BY 1"),
        "images_with_boxes": with_boxes,
        "statuses": tables.rows(
            "SELECT status, count(*) FROM images GROUP BY 1 ORDER BY 2 DESC, 1"
        ),
        "class_images": _by_class(
            tables, "SELECT label, count(DISTINCT row) FROM shown GROUP BY 1"
        ),
        "scores": _histograms(tables, tables.rows(_BY_SCORE), SCORE_BINS),
        "image_scores": _histograms(
            tables, [row for row in by_best if row[0] is not None], SCORE_BINS
        ),
        "best_scores": _histogram(((b, n) for name, b, n in by_best if name is None), SCORE_BINS),
        "sizes": _histograms(tables, tables.rows(_BY_SIZE), SIZE_BINS),
        "per_image": _per_image(tables),
        "throughput": _throughput(tables),
        "failures": _causes(tables, ok=False),
        "notes": _causes(tables, ok=True),
    }


def shortest(value: float) -> float:
    """Write a float32 with as few digits as tell it apart: .9 and not .8999999761581421.

    The order of such numbers is that of the float32 numbers. So the page compares scores as the tables do.
    """
    return float(str(np.float32(value)))


def _by_class(tables: RunTables, query: str) -> list[int]:
    """Count by class. The query gives the class and its count."""
    counts = dict(tables.rows(query))
    return [counts.get(name, 0) for name in tables.classes]


def _histograms(
    tables: RunTables, rows: Iterable[tuple[Any, ...]], num_bins: int
) -> list[list[int]]:
    """Turn rows (label, bin, count) into counts by class and bin, (K, num_bins)."""
    by_class: dict[str, list[tuple[int, int]]] = {name: [] for name in tables.classes}
    for label, place, count in rows:
        by_class[label].append((place, count))
    return [_histogram(found, num_bins) for found in by_class.values()]


def _histogram(rows: Iterable[tuple[int, int]], num_bins: int) -> list[int]:
    """Turn rows (bin, count) into counts by bin, (num_bins,)."""
    histogram = [0] * num_bins
    for place, count in rows:
        histogram[place] += count
    return histogram


def _per_image(tables: RunTables) -> dict[str, Any]:
    """Count the images by their number of boxes in the table `shown`."""
    counts = [0] * len(_PER_IMAGE)
    for number, images in tables.rows(_COUNT_PER_IMAGE):
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
    scored_images = "FROM images WHERE status <> 'changed' AND scored_at IS NOT NULL"
    ((first, last),) = tables.rows(f"SELECT min(scored_at), max(scored_at) {scored_images}")
    if first is None:
        return None
    span = (last - first).total_seconds()
    step = next((s for s in _TIME_STEPS_S if span < s * _TIME_BINS), _TIME_STEPS_S[-1])
    start = int(first.replace(tzinfo=UTC).timestamp()) // step * step
    rows = tables.rows(
        f"SELECT (epoch(scored_at) - $1)::BIGINT // $2, status = 'ok', count(*) {scored_images} GROUP BY ALL",
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
