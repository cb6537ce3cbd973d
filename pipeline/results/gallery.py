"""Selects the pictures of a report and makes thumbnails of them.

Every class is shown with its boxes of highest and of lowest score, because mistakes have low scores. Some
pictures are of images without boxes. The number of pictures and their bytes are bounded.
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
_THREADS = 4  # a decoded image may take 200 MB
_MAX_PIXELS = 64_000_000
_MAX_BOXES = 60
"""The largest number of boxes of one image in the page; those with the highest scores are shown."""
_QUALITY = 78  # JPEG quality; a thumbnail of 400 pixels takes about 20 kB
_EMPTY_SHARE = 8  # one picture in 8 is of an image without boxes
_PER_DECILE = 8

# A few images for each class and each tenth of the score. They are selected by a hash, which needs no sort
# and selects the same images every time.
_BY_SCORE = f"""
SELECT label, arg_min(row, hash(row), {_PER_DECILE}) FROM boxes
GROUP BY label, least(9, floor(score * 10))::INTEGER
ORDER BY label, max(score) DESC"""
_EMPTY = """
SELECT row FROM images WHERE status = 'ok' AND num_detections = 0 ORDER BY hash(row), row LIMIT $1"""


def gallery(tables: RunTables, *, count: int, side: int, max_bytes: int) -> dict[str, Any]:
    """Make the thumbnails, as JSON types.

    Args:
        tables: the run.
        count: the largest number of images.
        side: the longer side of a thumbnail, in pixels.
        max_bytes: the largest size of all thumbnails together, as they are encoded in the page.

    Returns:
        `items`: uri, width, height (of the image, pixels), src (data URI) and boxes: [class index, score,
        x_min, y_min, x_max, y_max] in pixels of the image, falling score. `unseen`: [uri, cause] of images
        that could not be read. `left_out`: the number of images that `max_bytes` excluded.
    """
    rows = select_rows(tables, count)
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
            "%d of %d pictures could not be read. The first error: %s",
            len(unseen),
            len(rows),
            unseen[0][1],
        )
    return {"items": items, "unseen": unseen, "left_out": left_out}


def select_rows(tables: RunTables, count: int) -> list[int]:
    """Select at most `count` images and return the numbers of their rows.

    The classes take turns, each with images of its highest and lowest scores.
    """
    by_score: dict[str, list[list[int]]] = {}
    for label, rows in tables.rows(_BY_SCORE):
        by_score.setdefault(label, []).append(rows)
    empty = [row for (row,) in tables.rows(_EMPTY, (count,))]
    by_class = [_from_both_ends(deciles) for deciles in by_score.values()]
    turns = [row for turn in zip_longest(*by_class) for row in turn if row is not None]
    unique = list(dict.fromkeys(turns))
    with_boxes = unique[: max(count - len(empty), count - count // _EMPTY_SHARE)]
    return with_boxes + empty[: count - len(with_boxes)]


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
    """Make the thumbnail as a data URI. It holds only pixels, no metadata of the file.

    Returns:
        The data URI, or the error if the image cannot be read.
    """
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
