"""Make training batches from labelled images. Order, flips and samples do not depend on the number of
workers.

A *position* counts images since the start of the run, and `pipeline.training.order` says which image it is.
Its flip and its RoI sample are drawn from seeds made of the run's seed and the position. A step takes
`batch_size` consecutive positions, and each rank takes its slice of them. So every rank takes the same
number of steps, and one worker or four see the same batches.

Letters in shapes: H, W height and width of an image; P proposals; G ground-truth boxes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastrcnn.augmentation import SAMPLE, augment
from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import Target
from fastrcnn.suppression import distinct
from pipeline import storage
from pipeline.annotations import LabelledImage
from pipeline.images import decode
from pipeline.images.samples import NEUTRAL, SampleRules
from pipeline.proposals.table import Boxes
from pipeline.training.order import ImageOrder
from pipeline.training.windows import show


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image and its proposals, boxes (P, 4) in the image frame."""

    image: LabelledImage
    proposals: Boxes
    crowds_ignored: bool = True
    """Whether crowds are ignored regions. False for runs from before they were: there, crowds are left
    out."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's share of a step: lists with one entry per image."""

    images: list[Tensor]
    """Decoded images, (H, W, 3) uint8 RGB."""
    targets: list[Target]
    seeds: list[int]
    """Seeds for sampling RoIs."""
    image_uris: list[str]


def target_of(example: Example) -> Target:
    """Give the proposals and ground truth to train on, in the image frame.

    Difficult objects are included, as in the reference implementation. Crowds are ignored regions.
    """
    use = ~example.image.crowd
    regions = [example.image.ignored]
    if example.crowds_ignored:
        regions.append(example.image.gt_boxes[~use])
    ignored = np.concatenate([part.reshape(-1, 4) for part in regions])
    return Target(
        torch.tensor(example.proposals, dtype=torch.float32),
        torch.tensor(example.image.gt_boxes[use], dtype=torch.float32).reshape(-1, 4),
        torch.tensor(example.image.gt_labels[use], dtype=torch.int64),
        torch.tensor(ignored, dtype=torch.float32) if len(ignored) else None,
    )


def load_batch(
    examples: Sequence[Example],
    step: int,
    batch_size: int,
    seed: int,
    config: FastRCNNConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
    rules: SampleRules = NEUTRAL,
    order: ImageOrder | None = None,
    max_proposals: int | None = None,
) -> Batch:
    """Read, decode and augment one rank's share of a step.

    Args:
        examples: the whole training set, in the same order on every rank.
        step: counted from 0.
        batch_size: images of the step over all ranks, at least one per rank. Shares differ by at most one.
        seed: seed of the run, for order, augmentation and samples.
        config: gives the tiles, the augmentation and `train_nms`. The NMS runs here, beside the training
            step, because it takes about 8 ms per image.
        rules: how samples become pixels.
        order: the image at each position. None: each image once an epoch.
        max_proposals: with tiles, proposals of an image that is shown whole. None: all.

    Raises:
        StorageError, ImageError: an image cannot be read now. It could be read when its proposals were made.
    """
    first, last = (step * batch_size + r * batch_size // world_size for r in (rank, rank + 1))
    order = order or ImageOrder(len(examples), seed)
    batch = Batch([], [], [], [])
    for position in range(first, last):
        example = examples[order.at(position)]
        data = storage.read_bytes(example.image.image_uri)
        pixels = torch.from_numpy(decode(data, rules=rules).pixels)
        draw = partial(_hash, seed, position=position)
        pixels, target = show(pixels, target_of(example), config, draw, max_proposals)
        (proposals,) = distinct([target.proposals], config.train_nms)
        target = target._replace(proposals=proposals)
        pixels, target = augment(pixels, target, config, draw)
        batch.images.append(pixels)
        batch.targets.append(target)
        batch.seeds.append(draw(SAMPLE))
        batch.image_uris.append(example.image.image_uri)
    return batch


def step_seed(seed: int, step: int, rank: int) -> int:
    """Give the seed for random numbers that a rank draws within a step (dropout)."""
    return _hash(seed, f"step/{rank}", step)


def _hash(seed: int, purpose: str, position: int) -> int:
    """Make a seed of 56 bits from the run's seed, the purpose and the position."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
