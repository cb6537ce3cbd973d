"""Images with objects and detections for tests of metrics: random ones, and real ones beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics import ImageDetections, ImageGroundTruth

Images = tuple[list[ImageGroundTruth], list[ImageDetections]]


def random_images(
    seed: int, num_images: int, num_objects: int, num_found: int, num_classes: int
) -> Images:
    """Make detections by moving objects a little. Some get another label. All scores differ."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(num_images * num_found).reshape(num_images, -1)
    scores = scores / scores.size
    truth, found = [], []
    for i in range(num_images):
        corner = rng.uniform(0, 500, (num_objects, 2))
        boxes = np.hstack([corner, corner + rng.uniform(5, 200, (num_objects, 2))])
        labels = rng.integers(1, num_classes + 1, num_objects)
        truth.append(
            ImageGroundTruth(
                boxes=boxes.astype(np.float32),
                labels=labels,
                difficult=rng.random(num_objects) < 0.1,
            )
        )
        of = rng.integers(0, num_objects, num_found)
        moved = boxes[of] + rng.normal(0, 8, (num_found, 4))
        moved[:, 2:] = np.maximum(moved[:, :2], moved[:, 2:])
        other = rng.random(num_found) < 0.2
        found.append(
            ImageDetections(
                boxes=moved.astype(np.float32),
                labels=np.where(other, rng.integers(1, num_classes + 1, num_found), labels[of]),
                scores=scores[i].astype(np.float32),
            )
        )
    return truth, found


def disjoint_images(seed: int, num_images: int, num_classes: int) -> Images:
    """Place objects one cell apart, so that no detection matches two of them.

    A difficult object is detected at most once. So VOC's matching (the object of highest IoU, matched or not)
    and COCO's (the unmatched object of highest IoU) are the same.
    """
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(num_images):
        cells = rng.permutation(16)[:10]
        corner = np.stack([cells % 4, cells // 4], axis=1) * 150.0
        boxes = np.hstack([corner, corner + rng.uniform(30, 90, (10, 2))])
        labels = rng.integers(1, num_classes + 1, 10)
        objects = rng.integers(3, 8)  # the other cells hold false positives alone
        difficult = rng.random(objects) < 0.25
        times = np.where(np.append(difficult, np.ones(10 - objects, bool)), 1, 3)
        of = np.repeat(np.arange(10), rng.integers(0, times + 1))
        moved = boxes[of] + rng.normal(0, 6, (len(of), 4))
        other = rng.random(len(of)) < 0.15
        truth.append(
            ImageGroundTruth(boxes=boxes[:objects], labels=labels[:objects], difficult=difficult)
        )
        found.append(
            ImageDetections(
                boxes=moved,
                labels=np.where(other, rng.integers(1, num_classes + 1, len(of)), labels[of]),
                scores=rng.permutation(len(of)) + rng.random(len(of)),
            )
        )
    return truth, found


def voc_style(folder: Path) -> tuple[list[ImageGroundTruth], list[ImageDetections], list[str]]:
    """Load eval_vectors/voc_style_30class: images, detections, and the names of labels 1, 2, ..."""
    truth_rows, found_rows = [], []
    for path in sorted((folder / "ground-truth").glob("*.txt")):
        detected = folder / "detection-results" / path.name
        truth_rows.append([line.split() for line in path.read_text().splitlines()])
        found_rows.append([line.split() for line in detected.read_text().splitlines()])
    # Some of the detector's classes have no object here.
    names = sorted({row[0] for rows in (*truth_rows, *found_rows) for row in rows})
    truth, found = [], []
    for objects, detected_rows in zip(truth_rows, found_rows, strict=True):
        truth.append(
            ImageGroundTruth(
                boxes=_corners([row[1:5] for row in objects]),
                labels=np.array([names.index(row[0]) + 1 for row in objects], np.int64),
            )
        )
        found.append(
            ImageDetections(
                boxes=_corners([row[2:6] for row in detected_rows]),
                labels=np.array([names.index(row[0]) + 1 for row in detected_rows], np.int64),
                scores=np.array([float(row[1]) for row in detected_rows], np.float32),
            )
        )
    return truth, found, names


def _corners(words: list[list[str]]) -> npt.NDArray[np.float32]:
    return np.array(words, dtype=object).astype(np.float32).reshape(-1, 4)


def coco_val2014(folder: Path) -> tuple[list[ImageGroundTruth], list[ImageDetections], int]:
    """Load eval_vectors/coco_val2014_100: images, detections, and the number of classes."""
    data = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    label = {c["id"]: k for k, c in enumerate(sorted(data["categories"], key=lambda c: c["id"]), 1)}
    truth, found = [], []
    for image_id in sorted(image["id"] for image in data["images"]):
        rows = [r for r in data["annotations"] if r["image_id"] == image_id]
        truth.append(
            ImageGroundTruth(
                boxes=_from_xywh([r["bbox"] for r in rows]),
                labels=np.array([label[r["category_id"]] for r in rows], np.int64),
                crowd=np.array([r["iscrowd"] for r in rows], bool),
                areas=np.array([r["area"] for r in rows], np.float64),
            )
        )
        rows = [r for r in results if r["image_id"] == image_id]
        found.append(
            ImageDetections(
                boxes=_from_xywh([r["bbox"] for r in rows]),
                labels=np.array([label[r["category_id"]] for r in rows], np.int64),
                scores=np.array([r["score"] for r in rows]),
            )
        )
    return truth, found, len(label)


def _from_xywh(boxes: list[list[float]]) -> npt.NDArray[np.float64]:
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
