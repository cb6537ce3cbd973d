"""Fit an RPN's anchors and a grid's shapes to the training boxes; refuse settings that an RPN excludes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fastrcnn.anchors import fit_anchors, fit_grid
from fastrcnn.backbones import backbone_spec
from fastrcnn.config import (
    LEARNED,
    FastRCNNConfig,
    FieldError,
    ProposalConfig,
    RPNConfig,
    SolverConfig,
)
from pipeline.annotations import LabelledImage
from pipeline.config.numbers import Numbers, rpn_config
from pipeline.errors import UserError
from pipeline.training.frames import Frame, Size, frames_of

logger = logging.getLogger(__name__)

DELTA_STD = (0.1, 0.1, 0.2, 0.2)
"""Standard deviations of the box deltas of a model with an RPN. They cannot be measured, because there are no
proposals before training. Source: BBOX_NORMALIZE_STDS of py-faster-rcnn's end-to-end training; torchvision
and detectron2 use the same."""


def rpn_of(
    model: FastRCNNConfig,
    solver: SolverConfig,
    proposals: ProposalConfig,
    numbers: Numbers,
) -> FastRCNNConfig:
    """Add an RPN to the model if --proposals is `rpn`; else give the model unchanged.

    Args:
        numbers: the numbers that flags give, for the model, the solver and the RPN.

    Raises:
        UserError: a setting excludes an RPN, or a flag gives a number of an RPN and the model has none.
    """
    if not proposals.spec.learned:
        for name, flag in numbers.flags.items():
            if name.startswith("rpn."):
                raise UserError(
                    flag,
                    f"needs an RPN, but the proposals are {proposals.name}",
                    f"Give --proposals {LEARNED}, or leave this flag out.",
                )
        return model
    _check_goes_with_rpn(model, solver)
    most = {
        name: min(getattr(RPNConfig(), name), proposals.max_boxes)
        for name in ("max_proposals_train", "max_proposals_test")
    }
    rpn = rpn_config(numbers, **most)
    try:
        return replace(model, rpn=rpn, delta_std=model.delta_std or DELTA_STD)
    except FieldError as error:
        raise numbers.flag_error("model", error) from error


def _check_goes_with_rpn(model: FastRCNNConfig, solver: SolverConfig) -> None:
    """Raise UserError for a setting of model or solver that excludes an RPN."""
    advice = "Give another proposer or a table, or leave this setting out."
    excluded = [
        (f"pyramid={model.pyramid}", bool(model.pyramid), "an RPN works on one scale only"),
        (
            f"trained={solver.trained}",
            solver.trained != "all",
            "a second stage trains one layer and needs the same proposals as the first stage",
        ),
        (
            f"rois_per_image={model.rois_per_image}",
            model.fg_fraction * model.rois_per_image < 1,
            "RoI-centric sampling would train the RPN on a whole image for each RoI",
        ),
        (
            f"train_nms={model.train_nms}",
            model.train_nms is not None,
            "an RPN suppresses near-duplicates itself, see --rpn.nms",
        ),
    ]
    for setting, is_set, reason in excluded:
        if is_set:
            raise UserError(f"--proposals {LEARNED} with {setting}", reason, advice)


def fit_anchors_to(model: FastRCNNConfig, images: Sequence[LabelledImage]) -> FastRCNNConfig:
    """Fit the RPN's anchors to the boxes of these images, in the model frame. Anchors given by flags stay.

    With tiles, a box counts as it is seen in tiles if it fits in one, else as it is seen in the whole image:
    as often as training shows it so. Anchors for the few pixels that a small box has in the whole image would
    leave fewer anchors for all other sizes.
    """
    rpn = model.rpn
    if rpn is None or (rpn.sides and rpn.ratios):
        return model
    sizes = [
        seen * frame.factor
        for box_sizes, image_size in _box_sizes(images)
        for frames in [frames_of(image_size, model)]
        for frame in frames
        for seen in [_looked_for(box_sizes, frame, frames)] * _weight(frame)
        if len(seen)
    ]
    if not sizes:
        logger.warning("no object is in an image of known size: standard anchors, not fitted ones")
        return model
    strides = rpn.map_strides(backbone_spec(model.backbone).strides)
    sides, ratios = fit_anchors(np.concatenate(sizes), len(strides))
    return replace(model, rpn=replace(rpn, sides=rpn.sides or sides, ratios=rpn.ratios or ratios))


_WEIGHTS = 10
"""A frame with all of the training counts so often."""


def _weight(frame: Frame) -> int:
    """Return how often the boxes of a frame count. A frame that training never shows does not count."""
    return 1 if frame.share == 1 else max(round(_WEIGHTS * frame.share), int(frame.share > 0))


def _looked_for(
    box_sizes: npt.NDArray[np.float32], frame: Frame, frames: Sequence[Frame]
) -> npt.NDArray[np.float32]:
    """Select the box sizes (G, 2) of an image that a frame has anchors for.

    Args:
        frame: one of the frames.
        frames: of the image, as `frames_of` lists them.
    """
    tile = frames[-1]
    if len(frames) == 1 or not tile.share:
        return box_sizes
    fits = (box_sizes <= tile.size).all(axis=1)
    return box_sizes[fits if frame is tile else ~fits]


def _seen(
    box_sizes: npt.NDArray[np.float32], image_size: Size, frame: Frame
) -> npt.NDArray[np.float32]:
    """Select the box sizes (G, 2) of an image that a frame shows whole: all, or those that fit in a tile."""
    if frame.size == image_size:
        return box_sizes
    return box_sizes[(box_sizes <= frame.size).all(axis=1)]


def fit_grid_to(
    proposals: ProposalConfig, model: FastRCNNConfig, images: Sequence[LabelledImage]
) -> ProposalConfig:
    """Fit a grid's shapes to the boxes of these images. A proposer or mode without fitting stays unchanged.

    With tiles, there is a grid on each tile and one on the whole image, both of these shapes.
    """
    if proposals.mode not in proposals.spec.fitted_modes:
        return proposals
    sizes = [
        seen / min(frame.size)
        for box_sizes, image_size in _box_sizes(images)
        for frame in frames_of(image_size, model)
        if len(seen := _seen(box_sizes, image_size, frame))
    ]
    if not sizes:
        logger.warning("no object is in an image of known size: an even grid, not a fitted one")
        return proposals
    return replace(proposals, shapes=fit_grid(np.concatenate(sizes)))


def _box_sizes(
    images: Sequence[LabelledImage],
) -> list[tuple[npt.NDArray[np.float32], tuple[int, int]]]:
    """Give box sizes and image size of each image whose labels state its size; crowds are left out.

    Returns:
        Pairs: heights and widths (G, 2) of the boxes, and (height, width) of the image, all in pixels of the
        image.
    """
    sizes = []
    for image in images:
        boxes = image.gt_boxes[~image.crowd]
        if image.size is not None and len(boxes):
            sizes.append((boxes[:, [3, 2]] - boxes[:, [1, 0]], image.size))
    return sizes
