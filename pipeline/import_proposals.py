"""Turns proposals of other programs into a table that `--proposals URI` reads.

    fast-rcnn     .mat   `boxes` (cell of (P, 4) y1, x1, y2, x2, from 1, inclusive), `images` (cell of names)
    detectron2    .pkl   ids, boxes, objectness_logits, bbox_mode (older files: indexes, scores)
    mmdetection   .pkl   {image path: {bboxes (P, 4), scores}}, from version 3 on

Proposals are matched to images by name, never by order. So a list without names, as mmdetection 2 writes it,
is refused: nothing proves that the images are in the same order. Pickles are read without running their code
(`pipeline.proposals.inert_pickle`).
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.annotations import LabelledImage, read_labelled_images
from pipeline.config.tools import ImportConfig
from pipeline.errors import UserError
from pipeline.images import IMAGE_SUFFIXES
from pipeline.proposals.inert_pickle import RecordedCall, as_array, as_scalar, load_inert
from pipeline.proposals.table import Boxes, are_boxes, boxes_array
from pipeline.results.image_matching import match_images
from pipeline.schema import PROPOSALS_IMPORT, encode_parquet

logger = logging.getLogger(__name__)

XYXY, XYWH = 0, 1
"""detectron2's BoxMode: XYXY_ABS, XYWH_ABS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedProposals:
    """The proposals of one image in a file."""

    name: str
    """The id, the name or the path of the image, as the file has it."""
    boxes: Boxes
    """(P, 4) float32, xyxy in the image frame, continuous edges, best first."""
    scores: Boxes | None = None
    """(P,) float32, falling; None if the file has no scores."""


def run(config: ImportConfig) -> None:
    """Read the file, match its proposals to the labelled images, and write the table.

    Raises:
        UserError: the file cannot be read, or it does not fit the images.
    """
    storage.check_writable(config.output)
    data = storage.read_bytes(config.source)
    try:
        if config.source.endswith(".mat"):
            named = read_mat(data)
        else:
            named = read_pickle(data)
    except ValueError as error:
        raise UserError(
            f"--source {config.source}",
            str(error),
            "Expected a .mat of fast-rcnn, or a .pkl of detectron2 or mmdetection 3, as"
            " pipeline/import_proposals.py describes them.",
        ) from error
    labelled = read_labelled_images(config.data, config.split)
    matched = match_proposals(labelled.images, named, config.source)
    table = pa.table(
        {
            "image_uri": [image.image_uri for image in labelled.images],
            "boxes": boxes_array([proposals.boxes for proposals in matched]),
            "scores": [None if p.scores is None else p.scores.tolist() for p in matched],
        },
        schema=PROPOSALS_IMPORT,
    )
    storage.write_bytes(
        config.output, encode_parquet(table, metadata={b"from": config.source.encode()})
    )
    logger.info("%s: wrote the proposals of %d images", config.output, len(matched))


def match_proposals(
    images: Sequence[LabelledImage], named: Sequence[NamedProposals], source: str
) -> list[NamedProposals]:
    """Return the proposals of each image, in the order of `images`.

    If all names are file names of images, the ends of the paths are matched; else the image ids.

    Raises:
        UserError: an image has no proposals, or a name occurs twice.
    """
    by_name = {proposals.name: proposals for proposals in named}
    if len(by_name) < len(named):
        names = [proposals.name for proposals in named]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"--source {source}", f"has {twice} twice", "Keep one of them.")
    if all(PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES for name in by_name):
        numbers = match_images([i.image_uri for i in images], list(by_name), source)
        return [named[number] for number in numbers]
    missing = [i for i in images if i.image_id not in by_name]
    if missing:
        raise UserError(
            f"--source {source}",
            f"has no proposals for {missing[0].image_id} ({missing[0].image_uri}) and {len(missing) - 1} "
            "other images",
            "Give a file for the images of this --split.",
        )
    return [by_name[image.image_id] for image in images]


def read_mat(data: bytes) -> list[NamedProposals]:
    """Read a .mat file of selective search proposals, as fast-rcnn and R-CNN publish them.

    Raises:
        ValueError: the file has another format or no names, or scipy is not installed.
    """
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
        from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError("needs scipy: pip install 'fastrcnn-ray[ablate]'") from error
    try:
        content = loadmat(io.BytesIO(data), variable_names=("boxes", "images"))
    except (MatReadError, NotImplementedError, ValueError, TypeError) as error:
        raise ValueError(f"is not a MATLAB file of version 7 or older ({error})") from error
    if not {"boxes", "images"} <= content.keys():
        raise ValueError("has no `boxes` and `images`, so there are no names to match")
    names = [str(np.asarray(cell).item()) for cell in content["images"].ravel()]
    cells = content["boxes"].ravel()
    if len(names) != len(cells):
        raise ValueError(f"has {len(names)} names and boxes of {len(cells)} images")
    rows = []
    for name, cell in zip(names, cells, strict=True):
        y1, x1, y2, x2 = np.asarray(cell, np.float64).reshape(-1, 4).T
        rows.append(_sorted_by_score(name, np.stack([x1 - 1, y1 - 1, x2, y2], axis=1), None))
    return rows


def read_pickle(data: bytes) -> list[NamedProposals]:
    """Read a .pkl file of detectron2 or mmdetection.

    Raises:
        ValueError: the file has another format or no names.
    """
    content = load_inert(data)
    if isinstance(content, list):
        raise ValueError("is a list without names: images cannot be matched by their order")
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, expected a dict")
    if "boxes" in content:
        return _detectron2(content)
    return [_mmdetection(str(as_scalar(path)), entry) for path, entry in content.items()]


def _detectron2(content: dict[str, Any]) -> list[NamedProposals]:
    ids = content.get("ids", content.get("indexes"))
    scores = content.get("objectness_logits", content.get("scores"))
    if ids is None or scores is None:
        raise ValueError("has boxes, but not both ids and objectness_logits")
    ids = as_array(ids).tolist() if isinstance(ids, RecordedCall) else [as_scalar(i) for i in ids]
    mode = as_scalar(content.get("bbox_mode", XYXY))
    if mode not in (XYXY, XYWH):
        raise ValueError(f"bbox_mode {mode}: expected 0 (xyxy) or 1 (xywh)")
    if not len(ids) == len(content["boxes"]) == len(scores):
        raise ValueError(
            f"has {len(ids)} ids, {len(content['boxes'])} entries of boxes and {len(scores)} of scores, "
            "expected the same number of each"
        )
    rows = []
    for name, boxes, logits in zip(ids, content["boxes"], scores, strict=True):
        corners = as_array(boxes).reshape(-1, 4).astype(np.float64)
        if mode == XYWH:
            corners[:, 2:] += corners[:, :2]
        rows.append(_sorted_by_score(str(name), corners, as_array(logits)))
    return rows


def _mmdetection(path: str, entry: Any) -> NamedProposals:
    fields = entry.state if isinstance(entry, RecordedCall) else entry
    if not isinstance(fields, dict) or "bboxes" not in fields:
        raise ValueError(f"{path}: has no bboxes")
    boxes = as_array(fields["bboxes"])
    scores = as_array(fields["scores"]) if "scores" in fields else None
    if boxes.shape[-1] == 5:
        boxes, scores = boxes[:, :4], boxes[:, 4]
    return _sorted_by_score(path, boxes.reshape(-1, 4), scores)


def _sorted_by_score(name: str, boxes: Any, scores: Any) -> NamedProposals:
    """Sort the boxes of one image by falling score. Boxes with equal scores keep their order.

    detectron2 reverses the order of equal scores and so may cut off the best boxes.
    """
    if not are_boxes(boxes):
        raise ValueError(
            f"{name}: a box is not valid, expected finite numbers, x1 <= x2 and y1 <= y2"
        )
    if scores is None:
        return NamedProposals(name=name, boxes=boxes.astype(np.float32))
    scores = np.asarray(scores, np.float32).ravel()
    if len(scores) != len(boxes):
        raise ValueError(f"{name}: {len(scores)} scores for {len(boxes)} boxes")
    order = np.argsort(-scores, kind="stable")
    return NamedProposals(name=name, boxes=boxes[order].astype(np.float32), scores=scores[order])
