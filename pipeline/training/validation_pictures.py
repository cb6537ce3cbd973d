"""A validation to look at: precision-recall curves, and images with found boxes beside labelled ones."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.images import decode
from pipeline.pictures import contact_sheet, draw_boxes
from pipeline.precision_recall import draw_precision_recall
from pipeline.training.examples import Example
from pipeline.training.validation import Validation

MAX_IMAGES = 8
MIN_SCORE = 0.5
"""Boxes below it are not drawn: average precision wants them, eyes do not."""


def draw_validation(
    found: Validation, examples: Sequence[Example], classes: Sequence[str]
) -> dict[str, bytes]:
    """pr_curves.png, and pictures.jpg: each image twice, detections beside ground truth.

    Args:
        examples: those that were validated on, in order.
        classes: K names.
    """
    pictures, captions = [], []
    for example, detections in list(zip(examples, found.detections, strict=True))[:MAX_IMAGES]:
        image = example.image
        pixels = decode(storage.read_bytes(image.image_uri)).pixels
        sure = np.asarray(detections.scores) >= MIN_SCORE
        labels, scores = np.asarray(detections.labels)[sure], np.asarray(detections.scores)[sure]
        boxes = np.asarray(detections.boxes)[sure]
        pictures.append(draw_boxes(pixels, boxes, labels.tolist(), scores.tolist(), classes))
        pictures.append(draw_boxes(pixels, image.gt_boxes, image.gt_labels.tolist(), None, classes))
        name = storage.basename(image.image_uri)[-30:]
        captions += [f"{name}: found", "labelled"]
    sink = io.BytesIO()
    Image.fromarray(contact_sheet(pictures, captions)).save(sink, format="JPEG", quality=88)
    title = f"validation, mAP (VOC07) {found.result.mean_ap:.3f}"
    curves = draw_precision_recall(found.result, classes, title)
    return {"pr_curves.png": curves, "pictures.jpg": sink.getvalue()}
