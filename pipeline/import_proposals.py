"""Other programs' proposals -> the table that `--proposals URI` reads. Matched by name, never by order.

    fast-rcnn     .mat   `boxes` (cell of (P, 4) y1, x1, y2, x2, from 1, inclusive), `images` (cell of names)
    detectron2    .pkl   ids, boxes, objectness_logits, bbox_mode (older: indexes, scores)
    mmdetection   .pkl   {image path: {bboxes (P, 4), scores}}, as of version 3

Pickles are read without running them (`pipeline.proposals.inert_pickle`). A list without names, as
mmdetection 2 writes it, is refused: the same order of images cannot be proved.
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
from pipeline.proposals.inert_pickle import Inert, as_array, load_inert, plain
from pipeline.proposals.table import Boxes, are_boxes, boxes_array
from pipeline.results.image_matching import match_images
from pipeline.schema import PROPOSALS_IMPORT, encode_parquet

logger = logging.getLogger(__name__)

XYXY, XYWH = 0, 1
"""detectron2's BoxMode: XYXY_ABS, XYWH_ABS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedProposals:
    """Proposals of one image, as a file has them."""

    name: str
    """Its id, its name or its path, as the file says."""
    boxes: Boxes
    """(P, 4) xyxy, continuous edges, best first."""
    scores: Boxes | None = None
    """(P,) falling; None where the file has none."""


def run(config: ImportConfig) -> None:
    """Read, match, write."""
    data = storage.read_bytes(config.source)
    try:
        if config.source.endswith(".mat"):
            found = read_mat(data)
        else:
            found = read_pickle(data)
    except ValueError as error:
        raise UserError(
            f"--source {config.source}",
            str(error),
            "Give a file that pipeline/import_proposals.py names.",
        ) from error
    labelled = read_labelled_images(config.data, config.split)
    own = match(labelled.images, found, config.source)
    table = pa.table(
        {
            "image_uri": [image.image_uri for image in labelled.images],
            "boxes": boxes_array([proposals.boxes for proposals in own]),
            "scores": [None if p.scores is None else p.scores.tolist() for p in own],
        },
        schema=PROPOSALS_IMPORT,
    )
    storage.write_bytes(
        config.output, encode_parquet(table, metadata={b"from": config.source.encode()})
    )
    logger.info("%s: proposals of %d images", config.output, len(own))


def match(
    images: Sequence[LabelledImage], found: Sequence[NamedProposals], source: str
) -> list[NamedProposals]:
    """The proposals of each image: by its id, or else by how its path ends.

    Raises:
        UserError: an image without proposals, or two rows of one name.
    """
    by_name = {proposals.name: proposals for proposals in found}
    if len(by_name) < len(found):
        names = [proposals.name for proposals in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"--source {source}", f"has {twice} twice", "Keep one of them.")
    if all(PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES for name in by_name):
        numbers = match_images([i.image_uri for i in images], list(by_name), source)
        return [found[number] for number in numbers]
    missing = [i for i in images if i.image_id not in by_name]
    if missing:
        raise UserError(
            f"--source {source}",
            f"has nothing for {missing[0].image_id} ({missing[0].image_uri}) and {len(missing) - 1} others",
            "Give the file and the --split that belong together.",
        )
    return [by_name[image.image_id] for image in images]


def read_mat(data: bytes) -> list[NamedProposals]:
    """A .mat file of fast-rcnn's or R-CNN's selective search data.

    Raises:
        ValueError: another file, or one without names; scipy is missing.
    """
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
        from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError("needs scipy: pip install 'fastrcnn-ray[ablate]'") from error
    try:
        content = loadmat(io.BytesIO(data), variable_names=("boxes", "images"))
    except (MatReadError, NotImplementedError, ValueError, TypeError) as error:
        raise ValueError(f"is no MATLAB file up to version 7 ({error})") from error
    if not {"boxes", "images"} <= content.keys():
        raise ValueError("has no `boxes` and `images`: without names nothing can be matched")
    names = [str(np.asarray(cell).item()) for cell in content["images"].ravel()]
    cells = content["boxes"].ravel()
    if len(names) != len(cells):
        raise ValueError(f"{len(names)} names for {len(cells)} images")
    rows = []
    for name, cell in zip(names, cells, strict=True):
        y1, x1, y2, x2 = np.asarray(cell, np.float64).reshape(-1, 4).T
        rows.append(_named(name, np.stack([x1 - 1, y1 - 1, x2, y2], axis=1), None))
    return rows


def read_pickle(data: bytes) -> list[NamedProposals]:
    """A file of detectron2's or mmdetection's.

    Raises:
        ValueError: another file, or one without names.
    """
    content = load_inert(data)
    if isinstance(content, list):
        raise ValueError("is a list without names: images cannot be matched by their order")
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}")
    if "boxes" in content:
        return _detectron2(content)
    return [_mmdetection(str(plain(path)), found) for path, found in content.items()]


def _detectron2(content: dict[str, Any]) -> list[NamedProposals]:
    ids = content.get("ids", content.get("indexes"))
    scores = content.get("objectness_logits", content.get("scores"))
    if ids is None or scores is None:
        raise ValueError("has boxes, but no ids or no objectness_logits")
    ids = as_array(ids).tolist() if isinstance(ids, Inert) else [plain(i) for i in ids]
    mode = plain(content.get("bbox_mode", XYXY))
    if mode not in (XYXY, XYWH):
        raise ValueError(f"bbox_mode {mode}: 0 (xyxy) and 1 (xywh) are read")
    if not len(ids) == len(content["boxes"]) == len(scores):
        raise ValueError(f"{len(ids)} ids, {len(content['boxes'])} boxes, {len(scores)} scores")
    rows = []
    for name, boxes, own in zip(ids, content["boxes"], scores, strict=True):
        corners = as_array(boxes).reshape(-1, 4).astype(np.float64)
        if mode == XYWH:
            corners[:, 2:] += corners[:, :2]
        rows.append(_named(str(name), corners, as_array(own)))
    return rows


def _mmdetection(path: str, found: Any) -> NamedProposals:
    fields = found.state if isinstance(found, Inert) else found
    if not isinstance(fields, dict) or "bboxes" not in fields:
        raise ValueError(f"{path}: has no bboxes")
    boxes = as_array(fields["bboxes"])
    scores = as_array(fields["scores"]) if "scores" in fields else None
    if boxes.shape[-1] == 5:
        boxes, scores = boxes[:, :4], boxes[:, 4]
    return _named(path, boxes.reshape(-1, 4), scores)


def _named(name: str, boxes: Any, scores: Any) -> NamedProposals:
    """Best first. Equal scores keep their order: detectron2 turns it round, and cuts off the best."""
    if not are_boxes(boxes):
        raise ValueError(f"{name}: a box is not finite or not x1 <= x2, y1 <= y2")
    if scores is None:
        return NamedProposals(name=name, boxes=boxes.astype(np.float32))
    scores = np.asarray(scores, np.float32).ravel()
    if len(scores) != len(boxes):
        raise ValueError(f"{name}: {len(scores)} scores for {len(boxes)} boxes")
    order = np.argsort(-scores, kind="stable")
    return NamedProposals(name=name, boxes=boxes[order].astype(np.float32), scores=scores[order])
