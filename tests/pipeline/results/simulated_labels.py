"""Labels with planted faults, and a simulated detector that did not see them, for the tests of suspects.

The detector's scores are true: a box with score p is right in a share p of the cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastrcnn.metrics import ImageDetections, ImageGroundTruth
from fastrcnn.metrics.inputs import pairwise_iou

NUM_CLASSES = 5
SIZE = (240, 320)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class World:
    """Labels, detections and faults of N images."""

    labels: list[ImageGroundTruth]
    detections: list[ImageDetections]
    faults: list[tuple[int, str, Floats]]
    """Image, kind and box of each fault: the true box of a missing label, else the labelled box."""


def world(
    images: int, *, sharp: tuple[float, float] = (40, 1), share: float = 0.1, seed: int = 1
) -> World:
    """Draw images.

    Args:
        sharp: the two numbers of the beta distribution of the scores of objects.
        share: of labels with a fault.
    """
    random = np.random.default_rng(seed)
    labels, detections, faults = [], [], []
    kinds = ("missing_label", "bad_box", "wrong_class")
    for index in range(images):
        boxes = _objects(random)
        classes = random.integers(1, NUM_CLASSES + 1, len(boxes))
        detections.append(_detect(random, boxes, classes, sharp))
        given, names = boxes.copy(), classes.copy()
        kept = np.ones(len(boxes), bool)
        for k in np.flatnonzero(random.random(len(boxes)) < share).tolist():
            kind = kinds[len(faults) % 3]
            if kind == "missing_label":
                kept[k] = False
            elif kind == "wrong_class":
                names[k] = _another(random, names[k])
            else:
                given[k] = _moved(random, boxes[k], (0.2, 0.6))
            faults.append((index, kind, given[k].copy()))
        labels.append(ImageGroundTruth(boxes=given[kept], labels=names[kept]))
    return World(labels=labels, detections=detections, faults=faults)


def _objects(random: np.random.Generator) -> Floats:
    """Draw up to five boxes that overlap little."""
    boxes = np.zeros((0, 4))
    for _ in range(int(random.integers(0, 6))):
        sides = np.exp(random.uniform(np.log(30), np.log(110), 2))
        corner = random.uniform((0, 0), (SIZE[1] - sides[0], SIZE[0] - sides[1]))
        box = np.append(corner, corner + sides)[None]
        if not len(boxes) or pairwise_iou(box, boxes).max() < 0.15:
            boxes = np.concatenate([boxes, box])
    return boxes


def _detect(
    random: np.random.Generator, boxes: Floats, classes: Floats, sharp: tuple[float, float]
) -> ImageDetections:
    """Detect each object with a score p, rightly in a share p of the cases; see what is not there, too."""
    found: list[tuple[Floats, int, float]] = []
    for box, label in zip(boxes, classes.tolist(), strict=True):
        p = float(random.beta(*sharp))
        if random.random() < p:
            found.append((_moved(random, box, (0.7, 1.0)), label, p))
        else:
            kind = random.integers(3)
            place = box if kind == 0 else _moved(random, box, (0.1, 0.45))
            found.append((place, _another(random, label) if kind == 0 else label, p))
            if kind == 2:
                found[-1] = (_anywhere(random), label, p)
    for _ in range(random.poisson(3)):
        label = int(random.integers(1, NUM_CLASSES + 1))
        found.append((_anywhere(random), label, float(random.beta(0.5, 10))))
    return ImageDetections(
        boxes=np.array([box for box, _, _ in found]).reshape(-1, 4),
        labels=np.array([label for _, label, _ in found], np.int64),
        scores=np.array([p for _, _, p in found]),
    )


def _anywhere(random: np.random.Generator) -> Floats:
    sides = random.uniform(30, 110, 2)
    corner = random.uniform((0, 0), (SIZE[1] - sides[0], SIZE[0] - sides[1]))
    box: Floats = np.append(corner, corner + sides)
    return box


def _another(random: np.random.Generator, label: int) -> int:
    return int(random.choice([k for k in range(1, NUM_CLASSES + 1) if k != label]))


def _moved(random: np.random.Generator, box: Floats, ious: tuple[float, float]) -> Floats:
    """Move and stretch a box until its IoU with itself lies in a range."""
    sides = box[2:] - box[:2]
    reach = 0.5 if ious[0] < 0.5 else 0.08
    while True:
        centre = (box[:2] + box[2:]) / 2 + random.uniform(-reach, reach, 2) * sides
        half = sides / 2 * np.exp(random.uniform(-0.4, 0.4, 2) * (2 * reach))
        moved: Floats = np.append(centre - half, centre + half)
        if ious[0] <= pairwise_iou(moved[None], box[None])[0, 0] <= ious[1]:
            return moved
