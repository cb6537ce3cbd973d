"""What is fitted to the training boxes, an RPN's anchors and a grid's shapes; and what an RPN excludes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fastrcnn.anchors import fit_anchors, fit_grid
from fastrcnn.backbones import backbone_spec
from fastrcnn.config import LEARNED, FastRCNNConfig, ProposalConfig, RPNConfig, SolverConfig
from fastrcnn.transform import scale_factor
from pipeline.annotations import LabelledImage
from pipeline.config.numbers import Numbers, rpn_config
from pipeline.errors import UserError

logger = logging.getLogger(__name__)

DELTA_STD = (0.1, 0.1, 0.2, 0.2)
"""With an RPN there is nothing to measure them on before training (py-faster-rcnn's
BBOX_NORMALIZE_STDS, of its end-to-end training; TV and D2)."""


def rpn_of(
    model: FastRCNNConfig,
    solver: SolverConfig,
    proposals: ProposalConfig,
    numbers: Numbers,
) -> FastRCNNConfig:
    """The model with an RPN, where proposals are its own.

    Args:
        numbers: those that flags give, the RPN's among them.

    Raises:
        UserError: another number excludes an RPN, or flags give an RPN's numbers and there is no RPN.
    """
    if not proposals.spec.learned:
        for name, flag in numbers.flags.items():
            if name.startswith("rpn."):
                raise UserError(
                    flag,
                    f"--proposals {proposals.name} are no RPN's",
                    f"Give --proposals {LEARNED}, or leave it out.",
                )
        return model
    _check_goes_with_rpn(model, solver)
    most = {
        name: min(getattr(RPNConfig(), name), proposals.max_boxes)
        for name in ("max_proposals_train", "max_proposals_test")
    }
    return replace(
        model,
        rpn=rpn_config(numbers, **most),
        delta_std=model.delta_std or DELTA_STD,
    )


def _check_goes_with_rpn(model: FastRCNNConfig, solver: SolverConfig) -> None:
    given = "Give another proposer or a table, or leave this out."
    excluded = [
        (f"pyramid={model.pyramid}", bool(model.pyramid), "an RPN looks at one scale"),
        (
            f"trained={solver.trained}",
            solver.trained != "all",
            "a second stage that trains one layer wants proposals that stay as they are",
        ),
        (
            f"rois_per_image={model.rois_per_image}",
            model.fg_fraction * model.rois_per_image < 1,
            "RoI-centric sampling would train the RPN on an image for one RoI of it",
        ),
        (
            f"train_nms={model.train_nms}",
            model.train_nms is not None,
            "an RPN suppresses near-duplicates itself: that is --rpn.nms",
        ),
    ]
    for setting, asked, reason in excluded:
        if asked:
            raise UserError(f"--proposals {LEARNED} with {setting}", reason, given)


def fit_anchors_to(model: FastRCNNConfig, images: Sequence[LabelledImage]) -> FastRCNNConfig:
    """Anchors for the boxes of these images in the model frame; given ones stay."""
    rpn = model.rpn
    if rpn is None or (rpn.sides and rpn.ratios):
        return model
    sizes = [
        own * scale_factor(size, model.scale, model.max_size) for own, size in _box_sizes(images)
    ]
    if not sizes:
        logger.warning("no image with boxes says its size: standard anchors, fitted to nothing")
        return model
    sides, ratios = fit_anchors(np.concatenate(sizes), len(backbone_spec(model.backbone).strides))
    return replace(model, rpn=replace(rpn, sides=rpn.sides or sides, ratios=rpn.ratios or ratios))


def fit_grid_to(proposals: ProposalConfig, images: Sequence[LabelledImage]) -> ProposalConfig:
    """Fit a grid's shapes to the boxes of these images; a proposer or mode that fits nothing stays."""
    if proposals.mode not in proposals.spec.fitted_modes:
        return proposals
    sizes = [own / min(size) for own, size in _box_sizes(images)]
    if not sizes:
        logger.warning("no image with boxes says its size: an even grid, fitted to nothing")
        return proposals
    return replace(proposals, shapes=fit_grid(np.concatenate(sizes)))


def _box_sizes(
    images: Sequence[LabelledImage],
) -> list[tuple[npt.NDArray[np.float32], tuple[int, int]]]:
    """(G, 2) height, width of each image's own objects, crowds left out, and the image's size."""
    found = []
    for image in images:
        boxes = image.gt_boxes[~image.crowd]
        if image.size is not None and len(boxes):
            found.append((boxes[:, [3, 2]] - boxes[:, [1, 0]], image.size))
    return found
