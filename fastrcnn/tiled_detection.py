"""Detection in tiles: looks at the whole image and at each tile, and joins what they show.

A look is the whole image or one of its tiles. All looks of some images are sorted by shape and pass through
the network a few at a time, so an image of any number of tiles needs the memory of a few looks.

Legend: D detections of all looks of one image; P proposals of one image. Boxes of a look are in its frame, in
pixels of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastrcnn.config import FastRCNNConfig
from fastrcnn.detection import (
    Detections,
    Images,
    Proposals,
    ScoredImage,
    detect_counting,
    one_class_each,
    propose_learned,
)
from fastrcnn.rpn import ProposedBoxes
from fastrcnn.suppression import suppress
from fastrcnn.tiles import Tiling, Window, in_window

if TYPE_CHECKING:
    from fastrcnn.model import FastRCNN

LOOKS_PER_PASS = 8
"""Looks in one call of the network."""
MOST_DETECTIONS = 32_000
"""Detections of an image that are kept. The column `detection` of `detections/` counts in 16 bits."""
EDGE = 0.01
"""A box touches an edge of its tile if it ends within this share of the tile's side from it. The network
places boxes to a pixel or two, and a tile has about a hundred times as many."""
COVERED = 0.7
"""A box at an inner edge is left out if another look has a box of its class on this share of it."""

Run = Callable[[Sequence[Any], Sequence[Any] | None], Sequence["ScoredImage | str"]]
"""Passes images and their proposals through the network. A text instead of a result is why it is missing."""


class Look(NamedTuple):
    """One image for the network: a whole image, or a tile of one."""

    image: int
    """Index of the image that it shows."""
    window: Window | None
    """Its place in the image. None: the whole image."""
    pixels: Tensor | npt.NDArray[np.uint8]
    """(h, w, 3) uint8, a view of the image."""
    proposals: npt.NDArray[np.float32] | None
    """(P, 4) in the frame of the look. None: the model proposes."""


def detect_tiled(
    model: FastRCNN,
    images: Images,
    proposals: Proposals | None = None,
    *,
    score_threshold: float | None = None,
    most_whole: int | None = None,
) -> list[ScoredImage]:
    """Detect objects as the model's config says: in tiles and in whole images, or in whole images only.

    Args:
        model: in eval mode.
        images: N arrays (H, W, 3) uint8 RGB, upright.
        proposals: N arrays (P, 4) float32, image frame. A tile takes those of which half or more is inside.
            None: the model's RPN makes them for each look.
        score_threshold: lowest score of a detection. None: the config's.
        most_whole: proposals of the whole image at most, the first ones. None: all.

    Returns:
        N results, in the order of the images. Boxes are in the image frame.
    """
    run = partial(detect_counting, model, score_threshold=score_threshold)
    tiling = Tiling.of(model.config)
    if tiling is None:
        return run(images, proposals)
    return detect_looks(  # type: ignore[return-value]  # `run` gives no texts
        run,
        images,
        proposals,
        tiling,
        model.config,
        most_whole=most_whole,
        score_threshold=score_threshold,
    )


def detect_looks(
    run: Run,
    images: Images,
    proposals: Proposals | None,
    tiling: Tiling,
    config: FastRCNNConfig,
    *,
    looks_per_pass: int = LOOKS_PER_PASS,
    most_whole: int | None = None,
    score_threshold: float | None = None,
) -> list[ScoredImage | str]:
    """Detect objects in the tiles of images and in the whole images, and join the boxes of each image.

    Args:
        run: the network.
        images, proposals, most_whole, score_threshold: as in `detect_tiled`.
        tiling: how the images are divided.
        config: of the model. It says which boxes are suppressed.
        looks_per_pass: looks in one call of `run`.

    Returns:
        N results. If `run` gives a text for a look, the text is the result of its image.
    """
    looks = looks_of(images, proposals, tiling, most_whole)
    order = sorted(range(len(looks)), key=lambda i: tuple(looks[i].pixels.shape))
    outcomes: dict[int, ScoredImage | str] = {}
    for first in range(0, len(order), looks_per_pass):
        some = order[first : first + looks_per_pass]
        given = None if proposals is None else [looks[i].proposals for i in some]
        outcomes.update(zip(some, run([looks[i].pixels for i in some], given), strict=True))
    of_image: list[list[int]] = [[] for _ in images]
    for index, look in enumerate(looks):
        of_image[look.image].append(index)
    results: list[ScoredImage | str] = []
    for number, image in enumerate(images):
        given_boxes = None if proposals is None else len(proposals[number])
        mine = [(looks[i], outcomes[i]) for i in of_image[number]]
        results.append(_joined(mine, _size(image), given_boxes, config, score_threshold))
    return results


def looks_of(
    images: Images,
    proposals: Proposals | None,
    tiling: Tiling,
    most_whole: int | None = None,
) -> list[Look]:
    """List the looks of images: for each, the whole image and then its tiles."""
    looks = []
    for index, image in enumerate(images):
        boxes = None if proposals is None else _array(proposals[index])
        windows = tiling.grid(_size(image))
        looks.append(Look(index, None, image, None if boxes is None else boxes[:most_whole]))
        for window in windows:
            x1, y1, x2, y2 = window
            some = None if boxes is None else in_window(boxes, window)
            looks.append(Look(index, window, image[y1:y2, x1:x2], some))
    return looks


def propose_tiled(model: FastRCNN, images: Images) -> list[ProposedBoxes]:
    """Make the proposals that `detect_tiled` makes with the model's RPN: those of all looks, best first.

    Returns:
        N `ProposedBoxes`, in the image frame.

    Raises:
        ValueError: the model has no RPN.
    """
    tiling = Tiling.of(model.config)
    if tiling is None:
        return propose_learned(model, images)
    looks = looks_of(images, None, tiling)
    found: list[list[ProposedBoxes]] = [[] for _ in images]
    for first in range(0, len(looks), LOOKS_PER_PASS):
        some = looks[first : first + LOOKS_PER_PASS]
        proposed = propose_learned(model, [look.pixels for look in some])
        for look, (boxes, scores) in zip(some, proposed, strict=True):
            found[look.image].append(
                ProposedBoxes(boxes + boxes.new_tensor(_offset_of(look.window)), scores)
            )
    joined = []
    for parts in found:
        boxes, scores = (torch.cat(values) for values in zip(*parts, strict=True))
        order = torch.sort(scores, descending=True, stable=True).indices
        joined.append(ProposedBoxes(boxes[order], scores[order]))
    return joined


def _joined(
    looks: Sequence[tuple[Look, ScoredImage | str]],
    size: tuple[int, int],
    given_boxes: int | None,
    config: FastRCNNConfig,
    score_threshold: float | None,
) -> ScoredImage | str:
    """Join the results of the looks of one image.

    Args:
        given_boxes: number of proposals that were given for the image. None: the looks count theirs.
    """
    scored: list[tuple[Look, ScoredImage]] = []
    for look, outcome in looks:
        if isinstance(outcome, str):
            return outcome
        scored.append((look, outcome))
    count = sum(one.num_proposals for _, one in scored) if given_boxes is None else given_boxes
    num_tiles = len(scored) - 1
    if num_tiles:
        pairs = [(look.window, one.detections) for look, one in scored]
        found = join_detections(pairs, size, config.nms_threshold)
    else:
        found = scored[0][1].detections
    return one_class_each(ScoredImage(found, count, num_tiles), config, score_threshold)


def join_detections(
    looks: Sequence[tuple[Window | None, Detections]],
    size: tuple[int, int],
    nms_threshold: float,
) -> Detections:
    """Join the detections of all looks at one image.

    1. Boxes move into the image frame.
    2. Where a tile cuts an object, its box ends at the tile's edge. Another look often shows more of the
       object, but the IoU of the two boxes is small, so step 3 would keep both. So a box that touches an
       inner edge of its tile is left out if a box of its class from another look covers `COVERED` of it.
       Smaller boxes are judged first, so that of two parts of an object the larger one stays.
    3. Boxes are suppressed over the image, for each class, as in a single look.

    Args:
        looks: the window of each look, None for the whole image; and its detections.
        size: (height, width) of the image.
        nms_threshold: as in `FastRCNNConfig`.

    Returns:
        `MOST_DETECTIONS` detections at most, highest score first, in the image frame.
    """
    boxes = torch.cat([d.boxes + d.boxes.new_tensor(_offset_of(w)) for w, d in looks])  # (D, 4)
    labels, scores = (torch.cat([d[part] for _, d in looks]) for part in (1, 2))
    numbers = np.repeat(np.arange(len(looks)), [len(d.scores) for _, d in looks])  # (D,)
    windows = np.array([w or (0, 0, size[1], size[0]) for w, _ in looks], np.float32)
    cut = _cut_boxes(boxes.numpy(), labels.numpy(), numbers, windows, size)
    kept = torch.from_numpy(np.flatnonzero(~cut))
    own_boxes, own_scores, own_labels = ([values[kept]] for values in (boxes, scores, labels))
    (best,) = suppress(own_boxes, own_scores, own_labels, nms_threshold, most=MOST_DETECTIONS)
    rows = kept[best]
    return Detections(boxes[rows], labels[rows], scores[rows])


def _cut_boxes(
    boxes: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    windows: npt.NDArray[np.float32],
    size: tuple[int, int],
) -> npt.NDArray[np.bool_]:
    """Mark the boxes (D,) that step 2 of `join_detections` leaves out.

    Args:
        numbers: (D,) the look of each box.
        windows: (looks, 4).
    """
    dropped = np.zeros(len(boxes), bool)
    touching = np.flatnonzero(_touches_inner_edge(boxes, windows[numbers], size))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    rivals_of: dict[int, npt.NDArray[np.int64]] = {}
    for index in touching[np.argsort(areas[touching], kind="stable")].tolist():
        number = int(numbers[index])
        if number not in rivals_of:
            near = _overlap(windows[number], windows) > 0
            near[number] = False
            rivals_of[number] = np.flatnonzero(near[numbers])
        rivals = rivals_of[number]
        rivals = rivals[(labels[rivals] == labels[index]) & ~dropped[rivals]]
        common = _overlap(boxes[index], boxes[rivals])
        dropped[index] = bool((common >= COVERED * areas[index]).any())
    return dropped


def _touches_inner_edge(
    boxes: npt.NDArray[np.float32], windows: npt.NDArray[np.float32], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Mark the boxes (D,) that end at an edge of their window (D, 4) that is not an edge of the image."""
    ends = np.array([0, 0, size[1], size[0]], np.float32)
    sides = np.tile(windows[:, 2:] - windows[:, :2], 2)  # (D, 4): width, height, twice
    touched: npt.NDArray[np.bool_] = (np.abs(boxes - windows) <= EDGE * sides) & (windows != ends)
    return np.asarray(touched.any(axis=1))


def _overlap(
    box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the areas (D,) that a box (4,) has in common with boxes (D, 4)."""
    common = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    return np.asarray(common.clip(min=0).prod(axis=1))


def _offset_of(window: Window | None) -> tuple[int, int, int, int]:
    """Return what moves a box from the frame of a window to that of the image."""
    return (0, 0, 0, 0) if window is None else (*window[:2], *window[:2])


def _size(image: Tensor | npt.NDArray[np.uint8]) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])


def _array(boxes: Tensor | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Give boxes (P, 4) as an array, which the geometry takes."""
    array = boxes.detach().cpu().numpy() if isinstance(boxes, Tensor) else boxes
    return np.asarray(array, np.float32).reshape(-1, 4)
