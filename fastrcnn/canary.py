"""One small image through a detector: weights that are finite may still give numbers that are not."""

from __future__ import annotations

import torch

from fastrcnn.model import FastRCNN
from fastrcnn.transform import batch_images, to_rois

_SIDE = 64
"""Pixels: two cells of the coarsest feature map, and some milliseconds of any backbone."""


def canary_outputs(model: FastRCNN) -> dict[str, torch.Tensor]:
    """Scores (4, K + 1) and boxes (4, 4 * (K + 1)) of four boxes in an image of ramps, all of them logits and
    deltas; where the model has an RPN its objectness (A,) and proposals (A, 4) too.

    Boxes whose scores are NaN are dropped by every comparison with a threshold, so a detector with spoilt
    weights would find nothing anywhere, and say nothing.

    Args:
        model: in eval mode, on any device.
    """
    ramp = torch.arange(_SIDE, dtype=torch.uint8)
    image = torch.stack(
        [3 * ramp.expand(_SIDE, -1), 3 * ramp[:, None].expand(-1, _SIDE), (ramp ^ ramp[:, None])], 2
    )  # (64, 64, 3)
    boxes = torch.tensor(
        [[0, 0, 64, 64], [0, 0, 32, 32], [30, 8, 60, 20], [10, 10, 11, 50]], dtype=torch.float32
    )
    with torch.inference_mode():
        batch = batch_images([image], _SIDE, _SIDE, model.head.delta_mean.device)
        class_logits, box_deltas = model(batch.images, to_rois([boxes], batch.factors))
        outputs = {"scores": class_logits, "boxes": box_deltas}
        if model.rpn is not None:
            (own,) = model.rpn(model.backbone(batch.images), batch.scaled)
            outputs |= {"objectness": own.objectness, "proposals": own.deltas}
    return outputs


def check_canary(model: FastRCNN) -> None:
    """Raises ValueError where one of the canary's outputs is not finite."""
    for name, values in canary_outputs(model).items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"gives {name} that are not finite on a test image")
