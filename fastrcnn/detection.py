"""From images and proposals to detections: the output rules, and the order of the test-time steps.

N images, R RoIs, K classes, D detections. Everything that leaves is in the image frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from fastrcnn.boxes import clip, decode
from fastrcnn.config import FastRCNNConfig
from fastrcnn.pooling import scale_levels
from fastrcnn.transform import batch_images, scaled_size, to_rois

if TYPE_CHECKING:
    from fastrcnn.model import FastRCNN

PADDING_WASTE = 1.25
"""Images share a batch while the padded area is below this multiple of each one's own."""


class Detections(NamedTuple):
    """Of one image, falling score, on the CPU."""

    boxes: Tensor
    """(D, 4) float32 xyxy, image frame."""
    labels: Tensor
    """(D,) int64, 1..K."""
    scores: Tensor
    """(D,) float32."""


@torch.inference_mode()
def detect(
    model: FastRCNN,
    images: Sequence[Tensor | npt.NDArray[np.uint8]],
    proposals: Sequence[Tensor | npt.NDArray[np.float32]],
    *,
    score_threshold: float | None = None,
) -> list[Detections]:
    """Detect objects in images of any sizes; like-shaped ones are scored in one pass.

    Args:
        model: in eval mode; its config holds scales and thresholds.
        images: N arrays (H, W, 3) uint8 RGB, oriented.
        proposals: N arrays (P, 4) float32, image frame; P may be 0.
        score_threshold: instead of the config's.

    Returns:
        One `Detections` an image, in order. The same image gives the same boxes alone or in company, up
        to float rounding.
    """
    config = model.config
    threshold = config.score_threshold if score_threshold is None else score_threshold
    device = model.head.delta_mean.device
    pixels = [_tensor(image) for image in images]
    boxes = [_tensor(p).to(torch.float32).reshape(-1, 4) for p in proposals]
    if len(pixels) != len(boxes):
        raise ValueError(f"{len(pixels)} images, but proposals for {len(boxes)}")
    results: dict[int, Detections] = {}
    sizes = [(int(p.shape[0]), int(p.shape[1])) for p in pixels]
    for group in group_by_shape([scaled_size(s, config.scales[0], config.max_size) for s in sizes]):
        own = [distinct(boxes[i].to(device), config.proposal_nms) for i in group]
        class_logits, box_deltas = _classify(model, [pixels[i] for i in group], own)
        counts = [len(b) for b in own]
        rows = torch.split(class_logits, counts), torch.split(box_deltas, counts)
        parts = zip(group, own, *rows, strict=True)
        for index, rois, logits, deltas in parts:
            results[index] = postprocess(rois, logits, deltas, sizes[index], config, threshold)
    return [results[index] for index in range(len(pixels))]


def distinct(proposals: Tensor, iou_threshold: float | None) -> Tensor:
    """Leave out each proposal whose IoU with a better-ranked one is above `iou_threshold`.

    Args:
        proposals: (P, 4) of one image, best first; P may be 0.
        iou_threshold: None keeps all of them.

    Returns:
        (Q, 4), Q <= P, in the order they had.
    """
    if iou_threshold is None:
        return proposals
    ranks = torch.arange(len(proposals), 0, -1, device=proposals.device, dtype=proposals.dtype)
    return proposals[nms(proposals, ranks, iou_threshold)]  # falling score: the order of the ranks


def _classify(
    model: FastRCNN, images: Sequence[Tensor], proposals: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Class logits and deltas of the proposals of like-shaped images, in their order.

    Each level of a pyramid is a pass of its own over all images: in one batch for all levels the small ones
    would be padded to the largest, which for the paper's five is 2.2 times the pixels.
    """
    config, device = model.config, model.head.delta_mean.device
    if len(config.scales) == 1:
        batch = batch_images(images, config.scales[0], config.max_size, device)
        outputs: tuple[Tensor, Tensor] = model(batch.images, to_rois(proposals, batch.factors))
        return outputs
    counts = [len(p) for p in proposals]
    levels = torch.cat(
        [
            scale_levels(
                p, config.scales, (image.shape[0], image.shape[1]), max_size=config.max_size
            )
            for p, image in zip(proposals, images, strict=True)
        ]
    )  # (R,)
    num_outputs = config.num_classes + 1
    class_logits = torch.zeros(len(levels), num_outputs, device=device)
    box_deltas = torch.zeros(len(levels), 4 * num_outputs, device=device)
    for level, scale in enumerate(config.scales):
        chosen = levels == level
        if not chosen.any():
            continue
        batch = batch_images(images, scale, config.max_size, device)
        own = [p[c] for p, c in zip(proposals, torch.split(chosen, counts), strict=True)]
        class_logits[chosen], box_deltas[chosen] = model(batch.images, to_rois(own, batch.factors))
    return class_logits, box_deltas


def _tensor(values: Tensor | npt.NDArray[Any]) -> Tensor:
    """Without a copy, but for arrays that may not be written (Ray's object store): torch warns of them."""
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def postprocess(
    proposals: Tensor,
    class_logits: Tensor,
    box_deltas: Tensor,
    size: tuple[int, int],
    config: FastRCNNConfig,
    score_threshold: float,
) -> Detections:
    """Softmax, decode, clip, threshold, suppress per class, keep the best (paper, section 2; F test.py).

    Deltas are relative to the box's own size, so proposals of the *image* frame are decoded: no way back
    from the model frame is needed.

    Args:
        proposals: (P, 4), image frame.
        class_logits: (P, K + 1).
        box_deltas: (P, 4 * (K + 1)).
        size: (height, width) of the image.
    """
    svm = config.classifier == "svm"
    scores = (class_logits if svm else torch.softmax(class_logits, dim=1))[:, 1:]  # (P, K)
    if config.box_regression:
        boxes = clip(decode(proposals, box_deltas), size)[:, 1:]  # (P, K, 4)
    else:
        boxes = clip(proposals, size)[:, None].expand(-1, scores.shape[1], 4)
    keep = scores > score_threshold
    if config.detections_per_class is not None and len(scores) > config.detections_per_class:
        lowest = scores.topk(config.detections_per_class, dim=0).values[-1]  # (K,)
        keep &= scores >= lowest
    keep &= (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    row, column = keep.nonzero(as_tuple=True)
    boxes, scores, labels = boxes[row, column], scores[row, column], column + 1
    best = batched_nms(boxes, scores, labels, config.nms_threshold)  # falling score
    if config.detections_per_image is not None:
        best = best[: config.detections_per_image]
    return Detections(boxes[best].cpu(), labels[best].cpu(), scores[best].cpu())


def group_by_shape(sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Split images into batches whose padding stays below `PADDING_WASTE`.

    Args:
        sizes: (height, width) of each image in the model frame.

    Returns:
        Lists of indices; every index once.
    """
    groups: list[list[int]] = []
    extents: list[tuple[int, int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: (sizes[i][0] / sizes[i][1], sizes[i])):
        height, width = sizes[index]
        if groups:
            padded = max(extents[-1][0], height), max(extents[-1][1], width)
            smallest = min(sizes[i][0] * sizes[i][1] for i in [*groups[-1], index])
            if padded[0] * padded[1] <= PADDING_WASTE * smallest:
                groups[-1].append(index)
                extents[-1] = padded
                continue
        groups.append([index])
        extents.append((height, width))
    return groups
