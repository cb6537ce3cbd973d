"""Makes the pictures of a report, with their boxes, the labelled objects, and the boxes of another run.

The number of pictures and their bytes are bounded. A picture has all of its boxes from the score on where
people start to look, and of those below it the ones with the highest scores.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from pipeline.errors import one_line
from pipeline.images import SampleRules
from pipeline.images.samples import NEUTRAL
from pipeline.results.compared import agreement
from pipeline.results.figures import shortest
from pipeline.results.tables import OTHER, RunTables
from pipeline.results.thumbnails import CROP_SIDE, Pictures, make_pictures
from pipeline.results.truth import FALSE, SECOND, WRONG, Judged, LabelledTruth, judge
from pipeline.runtime.prefetch import in_threads

logger = logging.getLogger(__name__)

_THREADS = 4  # a decoded image may take 200 MB
_LOW_BOXES = 60
"""Boxes of an image that the page has whatever their scores: those with the highest."""
_BOX_BYTES = 60
"""A box in the page."""

_IMAGES = """
SELECT row, image_uri, etag, width, height, num_detections FROM images WHERE list_contains($1, row)"""
_BOXES = f"""
SELECT row, label, boxes.score, x_min, y_min, x_max, y_max, boxes.score >= points.score
FROM boxes JOIN points ON boxes.label = points.class
WHERE list_contains($1, row) AND (boxes.score >= points.score OR detection < {_LOW_BOXES})
ORDER BY row, detection"""
_OTHER_BOXES = f"""
SELECT images.row, label, score, x_min, y_min, x_max, y_max
FROM images JOIN {OTHER}.images AS there USING (image_uri) JOIN {OTHER}.shown ON shown.row = there.row
WHERE list_contains($1, images.row) ORDER BY images.row, detection"""


def gallery(
    tables: RunTables,
    rows: Sequence[int],
    *,
    side: int,
    crops: int,
    max_bytes: int,
    rules: SampleRules = NEUTRAL,
    judged: Judged | None = None,
    other: RunTables | None = None,
) -> dict[str, Any]:
    """Make the pictures, as JSON types.

    Args:
        tables: the run.
        rows: the images to show (`pipeline.results.selection`).
        side: the longer side of a thumbnail, in pixels.
        crops: the largest number of boxes of a picture that also get a crop at original size. Mistakes come
            first, then the highest scores.
        max_bytes: the largest size of all pictures and boxes together, as they are encoded in the page.
            Thumbnails come before crops.
        rules: how samples become pixels; those of the run.
        judged: the evaluation, if there are labels.
        other: the other run, loaded beside the first one.

    Returns:
        `items`: uri, width, height (of the image, pixels), src (data URI), crops ([x_min, y_min, x_max,
        y_max, data URI]), hidden (number of boxes with low scores that the page leaves out) and boxes:
        [class index, score, x_min, y_min, x_max, y_max, kind, object, same] in pixels of the image, falling
        score. `kind` and `object` are those of `pipeline.results.truth`; `same` says whether the other
        run has this box. They are null if unknown. With labels, `truth`: [class index, corners] of the
        objects. With another run, `other`: [class name, score, corners, same]. `unseen`: [uri, cause] of
        images that could not be read. `left_out`: the number of images that `max_bytes` excluded. `side`,
        `crop_side`: the longest sides of thumbnails and crops, in pixels.
    """
    described = _describe(tables, rows, judged, other)
    made = in_threads(
        lambda row: make_pictures(
            described[row]["uri"],
            described[row].pop("etag"),
            side=side,
            boxes=_to_crop(described[row], crops),
            rules=rules,
        ),
        rows,
        threads=_THREADS,
    )
    unseen: list[tuple[str, str]] = []
    seen: list[tuple[dict[str, Any], Pictures]] = []
    room, left_out = max_bytes, 0
    for row, pictures in zip(rows, made, strict=True):
        item = described[row]
        if not isinstance(pictures, Pictures):
            unseen.append((item["uri"], one_line(pictures)))
            continue
        size = len(pictures.thumbnail) + _BOX_BYTES * len(item["boxes"])
        if size > room:
            left_out += 1
        else:
            room -= size
            del item["above"]
            seen.append((item | {"src": pictures.thumbnail, "crops": []}, pictures))
    _add_crops(seen, room)
    if unseen:
        logger.warning(
            "%d of %d pictures could not be read. The first error: %s",
            len(unseen),
            len(rows),
            unseen[0][1],
        )
    return {
        "items": [item for item, _ in seen],
        "unseen": unseen,
        "left_out": left_out,
        "side": side,
        "crop_side": CROP_SIDE,
    }


def _add_crops(seen: Sequence[tuple[dict[str, Any], Pictures]], room: int) -> None:
    """Add the first crop of each picture, then the second one, as far as there is room."""
    by_turn = zip_longest(*([(item, crop) for crop in pictures.crops] for item, pictures in seen))
    for item, (region, source) in (one for turn in by_turn for one in turn if one is not None):
        if len(source) <= room:
            room -= len(source)
            item["crops"].append([*region, source])


def _to_crop(item: Mapping[str, Any], most: int) -> list[list[float]]:
    """Choose the boxes that get a crop: mistakes, missed objects, then the boxes of the highest scores."""
    above = [box for box, is_above in zip(item["boxes"], item["above"], strict=True) if is_above]
    wrong = [box[2:6] for box in above if box[6] in (FALSE, WRONG, SECOND)]
    found = {box[7] for box in above if box[6] is not None}
    missed = [corners for j, (_, *corners) in enumerate(item.get("truth", ())) if j not in found]
    return [*wrong, *missed, *(box[2:6] for box in above)][:most]


def _describe(
    tables: RunTables, rows: Sequence[int], judged: Judged | None, other: RunTables | None
) -> dict[int, dict[str, Any]]:
    described: dict[int, dict[str, Any]] = {}
    truths: dict[int, LabelledTruth | None] = {}
    counts: dict[int, int] = {}
    for row, uri, etag, width, height, number in tables.rows(_IMAGES, (list(rows),)):
        item = {"uri": uri, "etag": etag, "width": width, "height": height}
        described[row] = item | {"boxes": [], "above": []}
        counts[row] = number or 0
        truths[row] = judged.image(uri) if judged else None
        if (truth := truths[row]) is not None:
            described[row]["truth"] = truth.objects
    index = {name: k for k, name in enumerate(tables.classes)}
    for row, label, score, *corners, above in tables.rows(_BOXES, (list(rows),)):
        box = [index[label], shortest(score), *(round(edge, 1) for edge in corners)]
        judge(truths[row], [((label, score, *corners), box)])
        described[row]["boxes"].append([*box, None])
        described[row]["above"].append(above)
    for row, item in described.items():
        item["hidden"] = counts[row] - len(item["boxes"])
    if other is not None:
        _add_other(tables, rows, described)
    return described


def _add_other(
    tables: RunTables, rows: Sequence[int], described: Mapping[int, dict[str, Any]]
) -> None:
    """Add the boxes of the other run, and whether both runs have a box."""
    for item in described.values():
        item["other"] = []
    for row, label, score, *corners in tables.rows(_OTHER_BOXES, (list(rows),)):
        box = [label, shortest(score), *(round(edge, 1) for edge in corners)]
        described[row]["other"].append([*box, False])
    for item in described.values():
        above = [
            box for box, is_above in zip(item["boxes"], item["above"], strict=True) if is_above
        ]
        names = [tables.classes[box[0]] for box in above]
        ours, theirs = agreement(
            [(name, box[1], box[2:6]) for name, box in zip(names, above, strict=True)],
            [(box[0], box[1], box[2:6]) for box in item["other"]],
        )
        for box, same in [*zip(above, ours, strict=True), *zip(item["other"], theirs, strict=True)]:
            box[-1] = same
