"""Makes the page of the suspects: a crop of each, to be judged in a second or two, in one HTML file.

Class names and paths come from outside. They are escaped, and the content security policy blocks every other
script, style and request.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipeline.errors import one_line
from pipeline.images import ImageError, SampleRules
from pipeline.results.page import asset, policy
from pipeline.results.thumbnails import data_uri, read_picture
from pipeline.runtime.prefetch import in_threads
from pipeline.storage import StorageError

_THREADS = 4  # a decoded image may take 200 MB
_QUALITY = 82
_MARGIN = 0.6
"""Shown around the boxes, in sides of the boxes: enough to see what is beside them."""
_LEAST_PX = 48
_EDGES = ("x_min", "y_min", "x_max", "y_max")
_QUESTIONS = {
    "missing_label": "Is {found} here, without a label?",
    "bad_box": "Is the box of {label} in the wrong place?",
    "wrong_class": "Is this {found}, and not {label}?",
}
_PLURALS = {
    "missing_label": "missing labels",
    "bad_box": "bad boxes",
    "wrong_class": "wrong classes",
}
_MEANING = (
    "Each picture is a place where the labels and a model that was not trained on the image disagree. The"
    " dashed box is the label, the other box is what the model saw. Say whether the label is wrong: if so, it"
    " is changed to what the model saw. Keys: w for wrong, r for right."
)

Row = Mapping[str, Any]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image."""

    source: str
    """Data URI of a JPEG."""
    frame: Box
    """The part of the image that it shows, xyxy in pixels."""


def crops(
    rows: Sequence[Row], *, side: int, max_bytes: int, rules: SampleRules
) -> tuple[list[Crop | None], str | None]:
    """Cut the pictures of some suspects.

    Args:
        rows: of SUSPECTS.
        side: the longer side of a picture, in pixels.
        max_bytes: the largest size of all pictures together, as they are encoded in the page.
        rules: how samples become pixels.

    Returns:
        The picture of each row, None if it could not be read or did not fit; and the first error.
    """
    by_image: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_image.setdefault(row["image_uri"], []).append(number)
    uris = list(by_image)
    read = in_threads(
        lambda uri: _cut(uri, [rows[k] for k in by_image[uri]], side, rules), uris, threads=_THREADS
    )
    made: list[Crop | None] = [None] * len(rows)
    error: str | None = None
    for uri, found in zip(uris, read, strict=True):
        if isinstance(found, Exception):
            error = error or f"{uri}: {one_line(found)}"
            continue
        for number, crop in zip(by_image[uri], found, strict=True):
            made[number] = crop
    room = max_bytes
    for number, one in enumerate(made):
        if one is not None:
            room -= len(one.source)
            if room < 0:
                made[number] = None
    return made, error


def _cut(
    uri: str, rows: Sequence[Row], side: int, rules: SampleRules
) -> list[Crop] | StorageError | ImageError:
    picture = read_picture(uri, None, rules)
    if isinstance(picture, StorageError | ImageError):
        return picture
    size = picture.height, picture.width
    return [_crop(picture, frame_of(row, size), side) for row in rows]


def frame_of(row: Row, size: tuple[int, int]) -> Box:
    """Choose the part of an image around the boxes of a suspect: whole pixels inside the image."""
    boxes = [[row[f"found_{edge}"] for edge in _EDGES]]
    if row["x_min"] is not None:
        boxes.append([row[edge] for edge in _EDGES])
    left, top = (min(box[k] for box in boxes) for k in (0, 1))
    right, bottom = (max(box[k] for box in boxes) for k in (2, 3))
    margin = max(_MARGIN * max(right - left, bottom - top), _LEAST_PX / 2)
    height, width = size
    x1, y1 = max(0, int(left - margin)), max(0, int(top - margin))
    x2, y2 = min(width, int(right + margin) + 1), min(height, int(bottom + margin) + 1)
    return min(x1, width - 1), min(y1, height - 1), max(x2, x1 + 1), max(y2, y1 + 1)


def _crop(picture: Image.Image, frame: Box, side: int) -> Crop:
    x1, y1, x2, y2 = (int(edge) for edge in frame)
    part = picture.crop((x1, y1, x2, y2))
    scale = side / max(part.size)
    if scale < 1:  # a browser enlarges small parts better than a file would
        part = part.resize(
            (max(1, round(part.width * scale)), max(1, round(part.height * scale))),
            Image.Resampling.LANCZOS,
        )
    return Crop(source=data_uri(part, _QUALITY), frame=frame)


def suspects_page(
    rows: Sequence[Row],
    pictures: Sequence[Crop | None],
    *,
    source: str,
    counts: Mapping[str, int],
    warnings: Sequence[str],
) -> bytes:
    """Return the page as UTF-8.

    Args:
        rows: of SUSPECTS, those that are shown.
        pictures: one for each row.
        source: says which labels and runs the suspects are from.
        counts: suspects by kind, also those that are not shown.
        warnings: what a reader must know.
    """
    style, script = asset("suspects.css"), asset("suspects.js")
    total = sum(counts.values())
    by_kind = ", ".join(
        f"{number:,} {_PLURALS[kind] if number != 1 else kind.replace('_', ' ')}"
        for kind, number in counts.items()
    )
    options = "".join(
        f'<option value="{_text(kind)}">{_text(kind.replace("_", " "))}</option>' for kind in counts
    )
    items = "".join(_item(row, crop) for row, crop in zip(rows, pictures, strict=True))
    shown = f" The first {len(rows)} are shown." if len(rows) < total else ""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(style, script)}">'
        f'<title>Suspicious labels</title><link rel="icon" href="data:,"><style>{style}</style></head>'
        f"<body><h1>{total:,} suspicious label{'' if total == 1 else 's'}</h1><p>{_text(_MEANING)}</p>"
        f"<p>{_text(by_kind or 'none')}.{shown}</p>"
        + "".join(f'<p class="warning">{_text(warning)}</p>' for warning in warnings)
        + f'<p class="soft">{_text(source)}</p>'
        '<div class="bar"><label>Kind <select id="kind"><option value="">all</option>'
        f'{options}</select></label><p id="judged" role="status"></p>'
        '<button type="button" id="save">Save judged.json</button>'
        '<p class="soft"><span class="key dashed"></span> label &nbsp; <span class="key"></span> model</p>'
        "</div>"
        f"<ol>{items}</ol><script>{script}</script></body></html>\n"
    )
    return page.encode()


def _item(row: Row, crop: Crop | None) -> str:
    words = {name: _text(row[name] or "") for name in ("label", "found_label")}
    question = _QUESTIONS[row["kind"]].format(label=words["label"], found=words["found_label"])
    facts = f"{row['rank']}. score {row['score']:.2f}, model {row['found_score']:.2f}"
    if row["label"] is not None:
        facts += f", IoU {row['iou']:.2f}"
    if row["cleanlab"] is not None:
        facts += f", cleanlab {row['cleanlab']:.2f}"
    return (
        f'<li data-suspect="{_text(row["suspect"])}" data-kind="{_text(row["kind"])}">'
        + (_picture(row, crop) if crop else "<p>No picture.</p>")
        + f'<h2>{question}</h2><p class="soft">{facts}</p><p class="soft">{_text(row["image_uri"])}</p>'
        '<div class="buttons"><button type="button" data-wrong="true" aria-pressed="false">Label is wrong'
        '</button><button type="button" data-wrong="false" aria-pressed="false">Label is right</button></div>'
        "</li>"
    )


def _picture(row: Row, crop: Crop) -> str:
    """Draw the crop with its boxes, in pixels of the image."""
    x1, y1, x2, y2 = crop.frame
    width, height = x2 - x1, y2 - y1
    line = max(width, height) / 240
    shapes = ""
    boxes = [("found", [row[f"found_{edge}"] for edge in _EDGES])]
    if row["x_min"] is not None:
        boxes.append(("label", [row[edge] for edge in _EDGES]))
    for name, (left, top, right, bottom) in boxes:
        place = (
            f'x="{left - x1:.2f}" y="{top - y1:.2f}" width="{right - left:.2f}"'
            f' height="{bottom - top:.2f}"'
        )
        dashes = f' stroke-dasharray="{6 * line:.2f} {4 * line:.2f}"' if name == "label" else ""
        shapes += f'<rect class="{name}-edge" {place} stroke-width="{4.5 * line:.2f}"/>'
        shapes += f'<rect class="{name}" {place} stroke-width="{2 * line:.2f}"{dashes}/>'
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="the place in the image">'
        f'<image href="{crop.source}" width="{width:g}" height="{height:g}"'
        f' preserveAspectRatio="none"/>{shapes}</svg>'
    )


def _text(value: object) -> str:
    return html.escape(str(value))
