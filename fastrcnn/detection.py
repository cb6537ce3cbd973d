"""From images and proposals to detections: the output rules, and the order of the test-time steps.

N images, R RoIs, K classes, D detections. Everything that leaves is in the image frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastrcnn.boxes import clip, decode
from fastrcnn.config import FastRCNNConfig
from fastrcnn.looking import look, propose
from fastrcnn.rpn import RPN, Proposed
from fastrcnn.suppression import choose, suppress
from fastrcnn.transform import batch_images, group_by_shape, scaled_size

if TYPE_CHECKING:
    from fastrcnn.model import FastRCNN


class Detections(NamedTuple):
    """Of one image, falling score, on the CPU."""

    boxes: Tensor
    """(D, 4) float32 xyxy, image frame."""
    labels: Tensor
    """(D,) int64, 1..K."""
    scores: Tensor
    """(D,) float32."""


class Scored(NamedTuple):
    """Of one image: what was found, and how many proposals there were to find it in."""

    detections: Detections
    num_proposals: int


Images = Sequence[Tensor | npt.NDArray[np.uint8]]
Proposals = Sequence[Tensor | npt.NDArray[np.float32]]


def detect(
    model: FastRCNN,
    images: Images,
    proposals: Proposals | None = None,
    *,
    score_threshold: float | None = None,
) -> list[Detections]:
    """Detect objects in images of any sizes; on a GPU like-shaped ones are scored in one pass.

    Args:
        model: in eval mode; its config holds scales and thresholds.
        images: N arrays (H, W, 3) uint8 RGB, oriented.
        proposals: N arrays (P, 4) float32, image frame; P may be 0. None: of the model's own RPN.
        score_threshold: instead of the config's.

    Returns:
        One `Detections` an image, in order. The same image gives the same boxes alone or in company, up
        to float rounding.

    Raises:
        ValueError: another number of proposals than of images; or none, and the model has no RPN.
    """
    scored = detect_counting(model, images, proposals, score_threshold=score_threshold)
    return [one.detections for one in scored]


@torch.inference_mode()
def detect_counting(
    model: FastRCNN,
    images: Images,
    proposals: Proposals | None = None,
    *,
    score_threshold: float | None = None,
) -> list[Scored]:
    """`detect`, with the number of each image's proposals."""
    if proposals is None:
        _check_rpn(model)
    elif len(images) != len(proposals):
        raise ValueError(f"{len(images)} images, but proposals for {len(proposals)}")
    config = model.config
    threshold = config.score_threshold if score_threshold is None else score_threshold
    device = model.head.delta_mean.device
    pixels = [_tensor(image) for image in images]
    results: dict[int, Scored] = {}
    for group in _groups(pixels, config, device):
        given = None
        if proposals is not None:
            own_boxes = [_tensor(proposals[i]).to(device, torch.float32) for i in group]
            given = [boxes.reshape(-1, 4) for boxes in own_boxes]
        looked = look(model, [pixels[i] for i in group], given)
        found = postprocess(
            *(looked.proposals, looked.class_logits, looked.box_deltas),
            *([_size(pixels[i]) for i in group], config, threshold),
        )
        results.update(zip(group, map(Scored, found, looked.counts), strict=True))
    return [results[index] for index in range(len(pixels))]


@torch.inference_mode()
def propose_learned(model: FastRCNN, images: Images) -> list[Proposed]:
    """What the model's RPN proposes in images (H, W, 3) uint8, as `detect` scores it, in the image frame.

    Raises:
        ValueError: the model has no RPN.
    """
    rpn, config = _check_rpn(model), model.config
    pixels = [_tensor(image) for image in images]
    results: dict[int, Proposed] = {}
    device = model.head.delta_mean.device
    for group in _groups(pixels, config, device):
        batch = batch_images([pixels[i] for i in group], config.scale, config.max_size, device)
        found = propose(rpn, model.backbone(batch.images), batch)
        results.update(zip(group, found, strict=True))
    return [results[index] for index in range(len(pixels))]


def _check_rpn(model: FastRCNN) -> RPN:
    if model.rpn is None:
        raise ValueError("the model has no RPN: give proposals for its images")
    return model.rpn


def _groups(
    images: Sequence[Tensor], config: FastRCNNConfig, device: torch.device
) -> list[list[int]]:
    """Images of one pass. A CPU gains nothing from batches: their maps leave its caches and are mapped anew
    at each layer, and eight images in one pass took twice as long as in eight (mobilenet_v2, 480 px)."""
    if device.type == "cpu":
        return [[index] for index in range(len(images))]
    sizes = [scaled_size(_size(image), config.scales[0], config.max_size) for image in images]
    return group_by_shape(sizes)


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])


def _tensor(values: Tensor | npt.NDArray[Any]) -> Tensor:
    """Without a copy, but for arrays that may not be written (Ray's object store): torch warns of them."""
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def postprocess(
    proposals: Sequence[Tensor],
    class_logits: Tensor,
    box_deltas: Tensor,
    sizes: Sequence[tuple[int, int]],
    config: FastRCNNConfig,
    score_threshold: float,
) -> list[Detections]:
    """Softmax, decode, clip, threshold, suppress per class, keep the best (paper, section 2; F test.py).

    Deltas are relative to the box's own size, so proposals of the *image* frame are decoded: no way back
    from the model frame is needed. A GPU is waited for a few times a call, however many images there are.

    Args:
        proposals: N of (P, 4), image frame.
        class_logits: (sum of P, K + 1).
        box_deltas: (sum of P, 4 * (K + 1)).
        sizes: N (height, width) of the images.
    """
    counts = [len(own) for own in proposals]
    boxes, scores = _decoded(proposals, class_logits, box_deltas, sizes, config)
    keep = scores > score_threshold
    most = config.detections_per_class
    if most is not None:
        keep &= torch.cat([_among_best(own, most) for own in torch.split(scores, counts)])
    keep &= (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    num_classes = scores.shape[1]
    index, found = choose(keep.flatten(), [count * num_classes for count in counts])
    boxes, scores = boxes.reshape(-1, 4)[index], scores.reshape(-1)[index]
    labels = index % num_classes + 1
    boxes_of, scores_of, labels_of = (torch.split(v, found) for v in (boxes, scores, labels))
    best = suppress(boxes_of, scores_of, labels_of, config.nms_threshold)
    chosen = [own[: config.detections_per_image] for own in best]
    firsts = [0, *accumulate(found)]
    rows = torch.cat([own + first for own, first in zip(chosen, firsts, strict=False)])
    packed = torch.cat([boxes[rows], scores[rows, None], labels[rows, None]], dim=1).cpu()
    return [
        Detections(own[:, :4].contiguous(), own[:, 5].long(), own[:, 4].contiguous())
        for own in torch.split(packed, [len(own) for own in chosen])
    ]


def _decoded(
    proposals: Sequence[Tensor],
    class_logits: Tensor,
    box_deltas: Tensor,
    sizes: Sequence[tuple[int, int]],
    config: FastRCNNConfig,
) -> tuple[Tensor, Tensor]:
    """Boxes (R, K, 4), inside their images, and scores (R, K) of the R proposals of all images."""
    together = torch.cat([*proposals])  # (R, 4)
    svm = config.classifier == "svm"
    scores = (class_logits if svm else torch.softmax(class_logits, dim=1))[:, 1:]
    of_image = torch.tensor([len(own) for own in proposals])
    limits = torch.tensor(sizes).repeat_interleave(of_image, dim=0)
    limits = limits.to(together.device, non_blocking=True)[:, None]  # (R, 1, 2)
    if config.box_regression:
        return clip(decode(together, box_deltas)[:, 1:], limits), scores
    return clip(together[:, None], limits).expand(-1, scores.shape[1], 4), scores


def _among_best(scores: Tensor, most: int) -> Tensor:
    """Of each column of (P, K) the `most` highest, and equals of the last of them."""
    if len(scores) <= most:
        return torch.ones_like(scores, dtype=torch.bool)
    return scores >= scores.topk(most, dim=0).values[-1]
