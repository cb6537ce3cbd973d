"""Measure which share of the labelled objects the proposals cover. No detector finds the others.

An object is covered if its IoU with a proposal is at least `IOU`. Crowds are not objects.

Legend: G objects, A anchors of one cell.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastrcnn.backbones import backbone_spec
from fastrcnn.config import STANDARD_RATIOS, FastRCNNConfig, standard_sides
from fastrcnn.metrics import proposal_recall
from fastrcnn.metrics.inputs import pairwise_iou
from fastrcnn.model import FastRCNN
from fastrcnn.tiled_detection import propose_tiled
from pipeline import storage
from pipeline.annotations import LabelledImage
from pipeline.images import SampleRules, decode
from pipeline.training.examples import Example
from pipeline.training.frames import frames_of
from pipeline.training.label_statistics import evenly

logger = logging.getLogger(__name__)

IOU = 0.5
LOW = 0.9
"""A smaller share is a warning."""
MOST_IMAGES = 500
"""Images whose anchors or given proposals are compared with the labels, evenly spaced."""
VALIDATED_IMAGES = 16
"""Validation images on which a learned proposer is measured."""


def log_anchor_coverage(model: FastRCNNConfig, images: Sequence[LabelledImage]) -> None:
    """Log the share of the objects that the anchors of the model's RPN cover. Without an RPN, do nothing."""
    if model.rpn is None:
        return
    share = anchor_coverage(model, evenly(images, MOST_IMAGES))
    if share is None:
        logger.info(
            "coverage of the anchors: not known, because no object is in an image of known size"
        )
        return
    _log(
        share,
        "anchors, from which the learned proposer starts,",
        "Give a larger --scale, or --rpn.sides.",
    )


def log_proposal_coverage(examples: Sequence[Example]) -> None:
    """Log the share of the objects of these examples that their proposals cover."""
    step = -(-len(examples) // MOST_IMAGES) or 1
    share = coverage(examples[::step], [example.proposals for example in examples[::step]])
    if share is not None:
        _log(share, "proposals", "Give --proposals rpn, which learns to cover them.")


def log_learned_coverage(
    model: FastRCNN, examples: Sequence[Example], rules: SampleRules
) -> float | None:
    """Log the share of the objects that the model's RPN proposes on some of these examples.

    Args:
        model: in eval mode, with an RPN.

    Returns:
        The share; None if the examples have no objects.
    """
    some = [e for e in examples if (~e.image.crowd).any()][:VALIDATED_IMAGES]
    images = [decode(storage.read_bytes(e.image.image_uri), rules=rules).pixels for e in some]
    proposed = [p.boxes.cpu().numpy() for p in propose_tiled(model, images)]
    share = coverage(some, proposed)
    if share is not None:
        advice = "Train longer, or give a larger --scale."
        _log(share, f"learned proposals of {len(some)} validation images", advice)
    return share


def coverage(
    examples: Sequence[Example], proposals: Sequence[npt.NDArray[np.float32]]
) -> float | None:
    """Give the share of the objects of the examples that these proposals cover; None without objects."""
    objects = [example.image.gt_boxes[~example.image.crowd] for example in examples]
    recall = proposal_recall(proposals, objects, (IOU,))
    return recall.recalls[0] if recall.num_gt else None


def anchor_coverage(model: FastRCNNConfig, images: Sequence[LabelledImage]) -> float | None:
    """Give the share of the objects that have an anchor at IoU >= `IOU`.

    Only the anchors of the nearest cell are compared: of all anchors of a shape, they have the largest IoU.
    With tiles, an object has anchors in the whole image and in tiles.

    Returns:
        None if the size of no image with objects is known.
    """
    assert model.rpn is not None
    strides = model.rpn.map_strides(backbone_spec(model.backbone).strides)
    sides, ratios = model.rpn.sides or standard_sides(strides), model.rpn.ratios or STANDARD_RATIOS
    covered, total = 0, 0
    for image in images:
        boxes = image.gt_boxes[~image.crowd].astype(np.float64)
        if image.size is None or not len(boxes):
            continue
        best = np.zeros(len(boxes))
        for frame in frames_of(image.size, model):
            # A tile shows a part of the cells of the whole image at its factor.
            height, width = (max(round(side * frame.factor), 1) for side in image.size)
            fits = (boxes[:, 2:] - boxes[:, :2] <= frame.size[::-1]).all(axis=1)
            fits |= frame.size == image.size
            for stride, level in zip(strides, sides, strict=True):
                shapes = [(side / r**0.5, side * r**0.5) for r in ratios for side in level]
                cells = (-(-width // stride), -(-height // stride))
                iou = _best_iou(boxes * frame.factor, stride, cells, shapes)
                best = np.maximum(best, np.where(fits, iou, 0))
        covered += int((best >= IOU).sum())
        total += len(boxes)
    return covered / total if total else None


def _best_iou(
    boxes: npt.NDArray[np.float64],
    stride: int,
    cells: tuple[int, int],
    shapes: Sequence[tuple[float, float]],
) -> npt.NDArray[np.float64]:
    """Give the largest IoU (G,) of boxes (G, 4) with the anchors of one map.

    Args:
        cells: columns and rows of the map.
        shapes: A pairs (width, height).
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = np.clip(np.round(centres / stride), 0, np.array(cells) - 1) * stride  # (G, 2)
    half = np.array(shapes) / 2  # (A, 2)
    anchors = np.concatenate([nearest[:, None] - half, nearest[:, None] + half], axis=2)
    ious = [pairwise_iou(box[None], own).max() for box, own in zip(boxes, anchors, strict=True)]
    return np.array(ious, np.float64)


def _log(share: float, what: str, advice: str) -> None:
    logger.info("the %s cover %.1f%% of the labelled boxes at IoU %g", what, 100 * share, IOU)
    if share < LOW:
        logger.warning(
            "only %.0f%% of the labelled boxes have one of the %s at IoU %g: the detector will miss the"
            " others. %s",
            100 * share,
            what,
            IOU,
            advice,
        )
