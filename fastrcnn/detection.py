"""Inference: from images and proposals to detections. `_detect_in_group` shows the order of the steps.

Legend: N images; P proposals of one image, Q of them after suppression; R proposals of all images; K classes;
D detections of one image. Proposals and detections are in the image frame.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastrcnn.boxes import clip, decode
from fastrcnn.calibration import Curve, calibrate, limit_to_one_class, uncalibrate
from fastrcnn.config import FastRCNNConfig
from fastrcnn.rpn import RPN, ProposedBoxes
from fastrcnn.suppression import distinct, suppress, true_indices
from fastrcnn.transform import canvas_size
from fastrcnn.upload import send, send_together
from fastrcnn.views import (
    Features,
    average_over_views,
    classify,
    classify_at_scales,
    compute_features,
)

if TYPE_CHECKING:
    from fastrcnn.model import FastRCNN


class Detections(NamedTuple):
    """The detected objects of one image, highest score first, on the CPU."""

    boxes: Tensor
    """(D, 4) float32 (x1, y1, x2, y2), image frame."""
    labels: Tensor
    """(D,) int64, 1..K."""
    scores: Tensor
    """(D,) float32."""


class ScoredImage(NamedTuple):
    """The result of one image."""

    detections: Detections
    num_proposals: int
    """P, before near-duplicates are removed."""
    num_tiles: int | None = None
    """Tiles that were looked at besides the whole image (`fastrcnn.tiled_detection`). None: the model looks
    at whole images only."""


Images = Sequence[Tensor | npt.NDArray[np.uint8]]
Proposals = Sequence[Tensor | npt.NDArray[np.float32]]


def detect(
    model: FastRCNN,
    images: Images,
    proposals: Proposals | None = None,
    *,
    score_threshold: float | None = None,
) -> list[Detections]:
    """Detect objects in images of any sizes. On a GPU, images of equal `canvases` share one forward pass.

    Each image is looked at once, whole. For a model with tiles, use `fastrcnn.tiled_detection.detect_tiled`.

    Args:
        model: in eval mode. Its config holds the scales and thresholds.
        images: N arrays (H, W, 3) uint8 RGB, upright.
        proposals: N arrays (P, 4) float32, image frame. P may be 0. None: the model's RPN makes the
            proposals.
        score_threshold: lowest score of a detection. None: the config's, which is one before calibration.

    Returns:
        N `Detections`, in the order of the images. The other images of the call change them by float
        rounding only.

    Raises:
        ValueError: there are N images but not N arrays of proposals; or there are no proposals and no RPN.
    """
    scored = detect_counting(model, images, proposals, score_threshold=score_threshold)
    return [image.detections for image in scored]


@torch.inference_mode()
def detect_counting(
    model: FastRCNN,
    images: Images,
    proposals: Proposals | None = None,
    *,
    score_threshold: float | None = None,
) -> list[ScoredImage]:
    """Detect objects like `detect`, and also return the number of proposals of each image."""
    if proposals is None:
        _rpn_of(model)
    elif len(images) != len(proposals):
        raise ValueError(
            f"{len(images)} images, but proposals for {len(proposals)}: give one array for each image"
        )
    threshold = _raw_thresholds(model.config, score_threshold)
    pixels = [_tensor(image) for image in images]
    results: dict[int, ScoredImage] = {}
    for group in _groups(pixels, model.config, model.device):
        group_proposals = None
        if proposals is not None:
            boxes = [_tensor(proposals[i]).float().reshape(-1, 4) for i in group]
            group_proposals = send_together(boxes, model.device)
        scored = _detect_in_group(model, [pixels[i] for i in group], group_proposals, threshold)
        # With tiles, `fastrcnn.tiled_detection` does this once they are joined.
        if model.config.tile is None:
            scored = [one_class_each(one, model.config, score_threshold) for one in scored]
        results.update(zip(group, scored, strict=True))
    return [results[index] for index in range(len(pixels))]


def _raw_thresholds(config: FastRCNNConfig, score_threshold: float | None) -> float | Tensor:
    """Give the threshold before calibration: one for all classes, or (K,) one for each.

    The config's threshold is one before calibration, so that calibration adds and removes no box, and average
    precision loses nothing. A threshold that a caller gives is one for the scores that the caller gets.
    """
    if score_threshold is None:
        return config.score_threshold
    if config.calibration is None:
        return score_threshold
    return torch.tensor(uncalibrate(score_threshold, config.calibration), dtype=torch.float32)


def _detect_in_group(
    model: FastRCNN,
    images: Sequence[Tensor],
    proposals: Sequence[Tensor] | None,
    threshold: float | Tensor,
) -> list[ScoredImage]:
    """Detect objects in N images of equal canvases: features, proposals, head, postprocessing.

    Args:
        proposals: N tensors (P, 4) on the model's device. None: the model's RPN makes them.
        threshold: lowest score of a detection before calibration, one or (K,).
    """
    config = model.config
    if config.pyramid:
        assert proposals is not None  # FastRCNNConfig refuses a pyramid together with an RPN
        kept = distinct(proposals, config.proposal_nms)
        outputs = classify_at_scales(model, images, kept, config.pyramid)
    else:
        features = compute_features(model, images, config.scale)
        if proposals is None:
            proposals = [proposed.boxes for proposed in _propose(_rpn_of(model), features)]
        kept = distinct(proposals, config.proposal_nms)  # N of (Q, 4), Q <= P
        outputs = classify(model, features, kept)
        del features  # frees memory for the other views
    outputs = average_over_views(model, images, kept, outputs)
    sizes = [_size(image) for image in images]
    detections = postprocess(kept, *outputs, sizes, config, threshold)
    pairs = zip(detections, proposals, strict=True)
    return [ScoredImage(objects, len(boxes)) for objects, boxes in pairs]


@torch.inference_mode()
def propose_learned(model: FastRCNN, images: Images) -> list[ProposedBoxes]:
    """Make the proposals that `detect` makes with the model's RPN.

    Args:
        model: in eval mode.
        images: N arrays (H, W, 3) uint8 RGB, upright.

    Returns:
        N `ProposedBoxes`, in the image frame.

    Raises:
        ValueError: the model has no RPN.
    """
    rpn, config = _rpn_of(model), model.config
    pixels = [_tensor(image) for image in images]
    results: dict[int, ProposedBoxes] = {}
    for group in _groups(pixels, config, model.device):
        features = compute_features(model, [pixels[i] for i in group], config.scale)
        results.update(zip(group, _propose(rpn, features), strict=True))
    return [results[index] for index in range(len(pixels))]


def _propose(rpn: RPN, features: Features) -> list[ProposedBoxes]:
    """Run the RPN on feature maps. Return N `ProposedBoxes` in the image frame, clipped to the images."""
    batch = features.batch
    proposed = rpn.propose(rpn(features.maps, batch.scaled))
    images = zip(proposed, batch.factors, batch.sizes, strict=True)
    return [
        ProposedBoxes(clip(boxes / factor, size), scores)
        for (boxes, scores), factor, size in images
    ]


def _rpn_of(model: FastRCNN) -> RPN:
    """Return the model's RPN, or raise ValueError."""
    if model.rpn is None:
        raise ValueError("the model has no RPN: give proposals for each image")
    return model.rpn


def _groups(
    images: Sequence[Tensor], config: FastRCNNConfig, device: torch.device
) -> list[list[int]]:
    """Split images into groups that share one forward pass. Return a list of indices for each group.

    On a CPU each image is a group. A batch is slower there, because its feature maps do not fit into the
    caches: eight images in one pass took twice as long as in eight passes (mobilenet_v2, 480 px).
    """
    if device.type == "cpu":
        return [[index] for index in range(len(images))]
    groups: dict[Hashable, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(canvases(_size(image), config), []).append(index)
    return list(groups.values())


def canvases(size: tuple[int, int], config: FastRCNNConfig) -> tuple[tuple[int, int], ...]:
    """Compute the padded (height, width) at each scale at which the network sees an image.

    Images share a pass only if these are equal. Then no image gets more padding than it has alone, and its
    result does not depend on the other images of the pass.

    Args:
        size: (height, width) of the image.
        config: of the model.
    """
    return tuple(
        canvas_size(size, scale, config.max_size, resize=config.resize)
        for scale in (*config.scales, *config.test_scales)
    )


def _size(image: Tensor) -> tuple[int, int]:
    """Return (height, width) of an image (H, W, 3)."""
    return int(image.shape[0]), int(image.shape[1])


def _tensor(values: Tensor | npt.NDArray[Any]) -> Tensor:
    """Turn an array into a tensor. Copy it only if it is read-only.

    Arrays from Ray's object store are read-only, and torch warns about tensors on read-only memory.
    """
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def postprocess(
    proposals: Sequence[Tensor],
    class_logits: Tensor,
    box_deltas: Tensor,
    sizes: Sequence[tuple[int, int]],
    config: FastRCNNConfig,
    score_threshold: float | Tensor,
) -> list[Detections]:
    """Turn the head's outputs into detections (paper, section 2; fast-rcnn test.py).

    The steps: softmax, decode, clip, threshold, suppress per class, keep the best, calibrate.

    Deltas are relative to the size of the proposal. So they also hold for the proposals in the image frame,
    and no box has to be transformed from the model frame. The host waits for a GPU a few times per call,
    however many images there are.

    Args:
        proposals: N tensors (P, 4), image frame.
        class_logits: (R, K + 1).
        box_deltas: (R, 4 * (K + 1)).
        sizes: N pairs (height, width), image frame.
        config: holds the other thresholds and limits.
        score_threshold: boxes with a higher score than this, before calibration, are kept. One threshold, or
            (K,) one for each class.

    Returns:
        N `Detections`.
    """
    counts = [len(boxes) for boxes in proposals]
    boxes, scores = _decode(proposals, class_logits, box_deltas, sizes, config)  # (R, K, 4), (R, K)
    if isinstance(score_threshold, Tensor):
        score_threshold = send(score_threshold, scores.device)
    keep = scores > score_threshold
    limit = config.detections_per_class
    if limit is not None:
        keep &= torch.cat([_mark_best(rows, limit) for rows in torch.split(scores, counts)])
    keep &= (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    num_classes = scores.shape[1]
    index, num_kept = true_indices(keep.flatten(), [count * num_classes for count in counts])
    boxes, scores = boxes.reshape(-1, 4)[index], scores.reshape(-1)[index]
    labels = index % num_classes + 1
    boxes_of, scores_of, labels_of = (
        torch.split(values, num_kept) for values in (boxes, scores, labels)
    )
    best = suppress(
        boxes_of, scores_of, labels_of, config.nms_threshold, most=config.detections_per_image
    )
    firsts = [0, *accumulate(num_kept)]
    rows = torch.cat([rows + first for rows, first in zip(best, firsts, strict=False)])
    columns = torch.cat([boxes[rows], scores[rows, None], labels[rows, None]], dim=1).cpu()
    images = torch.split(columns, [len(rows) for rows in best])
    detections = [
        Detections(i[:, :4].contiguous(), i[:, 5].long(), i[:, 4].contiguous()) for i in images
    ]
    if config.calibration is None:
        return detections
    return [_calibrated(image, config.calibration) for image in detections]


def _calibrated(detections: Detections, curves: Sequence[Curve]) -> Detections:
    """Calibrate the scores of one image. Sort again, because the classes have different curves."""
    scores = calibrate(detections.scores, detections.labels, curves)
    order = torch.sort(scores, descending=True, stable=True).indices
    return Detections(detections.boxes[order], detections.labels[order], scores[order])


def one_class_each(
    scored: ScoredImage, config: FastRCNNConfig, score_threshold: float | None = None
) -> ScoredImage:
    """Lower the calibrated scores that contradict a better detection (`FastRCNNConfig.one_class_iou`).

    Args:
        scored: one image. Its detections are on the CPU, so this costs no wait for a GPU.
        score_threshold: detections that are then below it are left out. None: they stay.

    Returns:
        The image with its detections, highest score first.
    """
    if config.one_class_iou is None or config.calibration is None:
        return scored
    boxes, labels, scores = scored.detections
    scores = limit_to_one_class(boxes, labels, scores, config.one_class_iou)
    order = torch.sort(scores, descending=True, stable=True).indices
    if score_threshold is not None:
        order = order[scores[order] >= score_threshold]
    return scored._replace(detections=Detections(boxes[order], labels[order], scores[order]))


def _decode(
    proposals: Sequence[Tensor],
    class_logits: Tensor,
    box_deltas: Tensor,
    sizes: Sequence[tuple[int, int]],
    config: FastRCNNConfig,
) -> tuple[Tensor, Tensor]:
    """Return boxes (R, K, 4), clipped to their images, and scores (R, K), both without background."""
    all_proposals = torch.cat([*proposals])  # (R, 4)
    svm = config.classifier == "svm"
    scores = (class_logits if svm else torch.softmax(class_logits, dim=1))[:, 1:]
    counts = torch.tensor([len(boxes) for boxes in proposals])
    limits = send(torch.tensor(sizes).repeat_interleave(counts, dim=0), all_proposals.device)
    limits = limits[:, None]  # (R, 1, 2)
    if config.box_regression:
        return clip(decode(all_proposals, box_deltas)[:, 1:], limits), scores
    return clip(all_proposals[:, None], limits).expand(-1, scores.shape[1], 4), scores


def _mark_best(scores: Tensor, limit: int) -> Tensor:
    """Mark the `limit` highest scores of each column of (P, K), and all scores equal to the last of them."""
    if len(scores) <= limit:
        return torch.ones_like(scores, dtype=torch.bool)
    return scores >= scores.topk(limit, dim=0).values[-1]
