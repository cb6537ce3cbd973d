"""A check of a loaded detector: its outputs for a small test image must be finite.

Finite weights can still give outputs that are NaN or infinite. (A canary is a test that warns early.)
"""

from __future__ import annotations

import torch

from fastrcnn.model import FastRCNN
from fastrcnn.transform import batch_images, to_rois

_SIDE = 64
"""Side of the test image in pixels: two cells of the coarsest feature map. Any backbone takes a few ms."""


def canary_outputs(model: FastRCNN) -> dict[str, torch.Tensor]:
    """Run the network on four boxes in an image of grey ramps, and return its raw outputs by name.

    A NaN score is above no threshold. So without this check, a detector with damaged weights would detect
    nothing in any image and report no error.

    Args:
        model: in eval mode, on any device.

    Returns:
        `scores`: (4, K + 1) logits, for K classes.
        `boxes`: (4, 4 * (K + 1)) deltas.
        With an RPN also `objectness`: (A,) logits, and `proposals`: (A, 4) deltas, for A anchors.
    """
    ramp = torch.arange(_SIDE, dtype=torch.uint8)
    image = torch.stack(
        [3 * ramp.expand(_SIDE, -1), 3 * ramp[:, None].expand(-1, _SIDE), (ramp ^ ramp[:, None])], 2
    )  # (64, 64, 3)
    boxes = torch.tensor(
        [[0, 0, 64, 64], [0, 0, 32, 32], [30, 8, 60, 20], [10, 10, 11, 50]], dtype=torch.float32
    )
    with torch.inference_mode():
        batch = batch_images([image], _SIDE, _SIDE, model.device)
        features = model.features(batch.images)
        class_logits, box_deltas = model.classify(features, to_rois([boxes], batch.factors))
        outputs = {"scores": class_logits, "boxes": box_deltas}
        if model.rpn is not None:
            (anchors,) = model.rpn(features, batch.scaled)
            outputs |= {"objectness": anchors.objectness, "proposals": anchors.deltas}
    return outputs


def check_canary(model: FastRCNN) -> None:
    """Raise ValueError if an output for the test image is not finite."""
    for name, values in canary_outputs(model).items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"the detector gives {name} that are not finite on a test image")
