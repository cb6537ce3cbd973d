"""Draws detections on their images, for people to look at.

The colours are those of Okabe and Ito, which colour-blind people can tell apart. Every box also has its
label as text, and every line has a dark edge, so that it is visible on any background.

Legend: D boxes, K classes, H and W height and width of the image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

# Okabe and Ito 2008, without black. Orange is first, because it is the easiest to see on photographs.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_FONT_SIZE = 12


def draw_boxes(
    pixels: Pixels,
    boxes: ArrayLike,
    labels: Sequence[int],
    scores: Sequence[float] | None,
    classes: Sequence[str],
    *,
    zoom: int = 1,
) -> Pixels:
    """Draw boxes on a copy of the image, the best score on top.

    Args:
        pixels: (H, W, 3) uint8 RGB; not changed.
        boxes: (D, 4) xyxy in pixels of this image, continuous edges.
        labels: D labels, 1..K.
        scores: D scores, written beside the labels; None for ground truth.
        classes: K names; label k is `classes[k - 1]`.
        zoom: factor by which the image is enlarged first, so that lines and text cover less of it.

    Returns:
        (H * zoom, W * zoom, 3) uint8 RGB.
    """
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * zoom
    image = Image.fromarray(pixels)
    image = image.resize((image.width * zoom, image.height * zoom))
    draw = ImageDraw.Draw(image)
    order = np.arange(len(corners)) if scores is None else np.argsort(scores, kind="stable")
    for i in order.tolist():
        text = classes[labels[i] - 1] + ("" if scores is None else f" {scores[i]:.2f}")
        colour = PALETTE[(labels[i] - 1) % len(PALETTE)]
        # The continuous edges x1 and x2 enclose the pixels x1 to x2 - 1. The line is drawn on these pixels.
        x_min, y_min, x_max, y_max = np.rint(corners[i] - (0, 0, 1, 1)).astype(int).tolist()
        if x_max < x_min or y_max < y_min:
            continue  # narrower than half a pixel: no pixel is left for a line
        draw.rectangle((x_min - 1, y_min - 1, x_max + 1, y_max + 1), outline=(0, 0, 0))
        draw.rectangle((x_min, y_min, x_max, y_max), outline=colour, width=2)
        _draw_label(draw, image.size, (x_min, y_min), text, colour)
    return np.asarray(image)


def contact_sheet(
    pictures: Sequence[Pixels], captions: Sequence[str], *, columns: int = 4, cell: int = 300
) -> Pixels:
    """Arrange pictures side by side on white. Each is scaled to a square cell, with its caption below.

    Args:
        pictures: N arrays (H, W, 3) uint8 RGB of any sizes; at least one.
        captions: N lines of text.
        columns: pictures in a row.
        cell: side of a cell, in pixels, without the caption.

    Returns:
        One picture (height, width, 3) uint8 RGB.
    """
    gap, caption_height = 6, _FONT_SIZE + 8
    rows = -(-len(pictures) // columns)
    step_x, step_y = cell + gap, cell + caption_height + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = gap + i % columns * step_x, gap + i // columns * step_y
        picture = Image.fromarray(pixels)
        scale = cell / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        sheet.paste(picture.resize((width, height)), (left, top))
        draw.text((left, top + height + 2), caption, fill="black", font=_font())
    return np.asarray(sheet)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: tuple[int, int],
    text: str,
    colour: tuple[int, int, int],
) -> None:
    """Write the label on the colour of its class: above the box, or inside if the space above is too small.

    The label is moved so that all of it is in the picture.
    """
    width, height = int(draw.textlength(text, font=_font())) + 4, _FONT_SIZE + 3
    left = max(0, min(corner[0], size[0] - width))
    top = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    # Black text is easier to read on all but the darkest colours (relative luminance of WCAG, gamma 2.2).
    luminance = float(np.dot((np.array(colour) / 255) ** 2.2, (0.2126, 0.7152, 0.0722)))
    ink = "white" if luminance < 0.18 else "black"
    draw.text((left + 2, top), text, fill=ink, font=_font())


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_FONT_SIZE)
