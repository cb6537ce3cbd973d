"""The pictures of a report: which ones, small, with their boxes.

Chosen so that every class shows its surest boxes and its least sure ones, where mistakes are, and that some
images show where nothing was found. Bounded in number and in bytes.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from PIL import Image

from pipeline import images, storage
from pipeline.errors import one_line
from pipeline.images import ImageError
from pipeline.results.tables import RunTables
from pipeline.runtime.prefetch import in_threads
from pipeline.storage import StorageError

logger = logging.getLogger(__name__)

_DEADLINE_S = 20.0
_THREADS = 4  # a decoded image may have 200 MB
_MAX_PIXELS = 64_000_000
_MAX_BOXES = 60
"""Of one image in the page, surest first."""
_QUALITY = 78  # of JPEG: some 20 kB at 400 pixels
_EMPTY_SHARE = 8  # one image in so many shows nothing
_PER_DECILE = 8

# Of each class and tenth of the score a few images, by a hash: no sort, and the same ones every time.
_CANDIDATES = f"""
SELECT label, arg_min(row, hash(row), {_PER_DECILE}) FROM boxes
GROUP BY label, least(9, floor(score * 10))::INTEGER
ORDER BY label, max(score) DESC"""
_EMPTY = """
SELECT row FROM images WHERE status = 'ok' AND num_detections = 0 ORDER BY hash(row), row LIMIT $1"""


def gallery(tables: RunTables, *, count: int, side: int, max_bytes: int) -> dict[str, Any]:
    """At most `count` images and `max_bytes` of thumbnails, as JSON types.

    Args:
        count: images.
        side: the longer side of a thumbnail, pixels.
        max_bytes: of all thumbnails, as they lie in the page.

    Returns:
        `items`: uri, width, height (of the image, pixels), src (data URI) and boxes: [class index, score,
        x_min, y_min, x_max, y_max] in pixels of the image, falling score. `unseen`: [uri, cause] of images
        that could not be had. `left_out`: images that had no room.
    """
    rows = choose(tables, count)
    described = _describe(tables, rows)
    sources = in_threads(lambda row: _source(described[row], side), rows, threads=_THREADS)
    items: list[dict[str, Any]] = []
    unseen: list[tuple[str, str]] = []
    room, left_out = max_bytes, 0
    for row, source in zip(rows, sources, strict=True):
        item = described[row]
        if isinstance(source, Exception):
            unseen.append((item["uri"], one_line(source)))
        elif len(source) > room:
            left_out += 1
        else:
            room -= len(source)
            items.append({name: item[name] for name in item if name != "etag"} | {"src": source})
    if unseen:
        logger.warning(
            "%d of %d pictures could not be had: %s", len(unseen), len(rows), unseen[0][1]
        )
    return {"items": items, "unseen": unseen, "left_out": left_out}


def choose(tables: RunTables, count: int) -> list[int]:
    """Numbers of `count` images at most: classes take turns, each with its surest and least sure boxes."""
    deciles: dict[str, list[list[int]]] = {}
    for label, rows in tables.rows(_CANDIDATES):
        deciles.setdefault(label, []).append(rows)
    empty = [row for (row,) in tables.rows(_EMPTY, (count,))]
    by_class = [_from_both_ends(found) for found in deciles.values()]
    turns = [row for turn in zip_longest(*by_class) for row in turn if row is not None]
    found = list(dict.fromkeys(turns))
    with_boxes = found[: max(count - len(empty), count - count // _EMPTY_SHARE)]
    return with_boxes + empty[: count - len(with_boxes)]


def _from_both_ends(deciles: Sequence[list[int]]) -> list[int]:
    """One image of each tenth before a second one of any: highest, lowest, second highest, ..."""
    order = []
    left, right = 0, len(deciles) - 1
    while left <= right:
        order.append(deciles[left])
        if left < right:
            order.append(deciles[right])
        left, right = left + 1, right - 1
    return [row for turn in zip_longest(*order) for row in turn if row is not None]


def _describe(tables: RunTables, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    described = {
        row: {"uri": uri, "etag": etag, "width": width, "height": height, "boxes": []}
        for row, uri, etag, width, height in tables.rows(
            "SELECT row, image_uri, etag, width, height FROM images WHERE list_contains($1, row)",
            (list(rows),),
        )
    }
    index = {name: k for k, name in enumerate(tables.classes)}
    for row, label, score, *corners in tables.rows(
        f"SELECT row, label, score, x_min, y_min, x_max, y_max FROM boxes "
        f"WHERE list_contains($1, row) AND detection < {_MAX_BOXES} ORDER BY row, detection",
        (list(rows),),
    ):
        box = [index[label], round(score, 3), *(round(edge, 1) for edge in corners)]
        described[row]["boxes"].append(box)
    return described


def _source(item: dict[str, Any], side: int) -> str | StorageError | ImageError:
    """The thumbnail as a data URI: pixels only, nothing else that the file may carry."""
    try:
        data = storage.read_bytes(
            item["uri"], etag=item["etag"], max_bytes=images.MAX_BYTES, deadline_s=_DEADLINE_S
        )
        pixels = images.decode(data, max_pixels=_MAX_PIXELS).pixels
    except (StorageError, ImageError) as error:
        return error
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
