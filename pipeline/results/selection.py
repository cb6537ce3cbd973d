"""Selects the images whose pictures a report shows.

Images with known mistakes or differences come first. Then every class is shown with its boxes of highest
score and with those just above the score where people start to look, because mistakes have low scores. Some
pictures are of images without such boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from pipeline.results.tables import RunTables

EMPTY_SHARE = 8
"""One picture in 8 is of an image without boxes."""
_PER_DECILE = 8
_PREFERRED_SHARE = 0.75

# A few images for each class and each tenth of the score. They are selected by a hash, which needs no sort
# and selects the same images every time. An image with several boxes of one tenth counts once.
_BY_SCORE = f"""
SELECT label, arg_min(row, hash(row), {_PER_DECILE})
FROM (SELECT DISTINCT label, row, least(9, floor(score * 10))::INTEGER AS tenth FROM shown)
GROUP BY label, tenth ORDER BY label, tenth DESC"""
_EMPTY = """
SELECT row FROM images WHERE status = 'ok' AND row NOT IN (SELECT row FROM shown)
ORDER BY num_detections > 0, hash(row), row LIMIT $1"""
_REST = """
SELECT row FROM images WHERE status = 'ok' AND NOT list_contains($1, row)
ORDER BY row NOT IN (SELECT row FROM shown), hash(row), row LIMIT $2"""


def select_rows(
    tables: RunTables, count: int, preferred: Sequence[Sequence[int]] = ()
) -> list[int]:
    """Select `count` images, or all if there are fewer, and return the numbers of their rows.

    Args:
        tables: the run; the table `shown` has the boxes that people start with.
        count: the number of pictures that are asked for.
        preferred: lists of rows, best first. They take turns until three quarters of the pictures are taken.
    """
    if not count:
        return []
    first = _in_turns(preferred)[: round(_PREFERRED_SHARE * count)]
    by_score: dict[str, list[list[int]]] = {}
    for label, rows in tables.rows(_BY_SCORE):
        by_score.setdefault(label, []).append(rows)
    empty = [row for (row,) in tables.rows(_EMPTY, (count,)) if row not in first]
    with_boxes = _in_turns([first, *map(_from_both_ends, by_score.values())], first)
    room = count - len(first)
    kept = with_boxes[: len(first) + max(room - len(empty), room - room // EMPTY_SHARE)]
    chosen = kept + empty[: count - len(kept)]
    rest = tables.rows(_REST, (chosen, count - len(chosen))) if len(chosen) < count else []
    return chosen + [row for (row,) in rest]


def _in_turns(lists: Sequence[Sequence[int]], first: Iterable[int] = ()) -> list[int]:
    """Take one row of each list, then a second one of each, and so on. Each row once; `first` before all."""
    turns = [row for turn in zip_longest(*lists) for row in turn if row is not None]
    return list(dict.fromkeys([*first, *turns]))


def _from_both_ends(deciles: Sequence[list[int]]) -> list[int]:
    """Order images by tenth of the score: highest, lowest, second highest, ...

    Each tenth gives one image before any tenth gives a second one.
    """
    order = []
    left, right = 0, len(deciles) - 1
    while left <= right:
        order.append(deciles[left])
        if left < right:
            order.append(deciles[right])
        left, right = left + 1, right - 1
    return [row for turn in zip_longest(*order) for row in turn if row is not None]
