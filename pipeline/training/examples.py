"""Make training batches from labelled images. Order, flips and samples do not depend on the number of
workers.

A *position* counts images since the start of the run. With n images, position p is image
permutation(epoch)[p mod n] of epoch p // n. Its flip and its RoI sample are drawn from seeds made of the
run's seed and p. A step takes `batch_size` consecutive positions, and each rank takes its slice of them. So
every rank takes the same number of steps, every image is used once per epoch, and one worker or four see the
same batches.

Letters in shapes: H, W height and width of an image; P proposals; G ground-truth boxes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from fastrcnn.augmentation import augment
from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import Target
from fastrcnn.suppression import distinct
from pipeline import storage
from pipeline.annotations import LabelledImage
from pipeline.images import decode
from pipeline.proposals.table import Boxes


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image and its proposals, boxes (P, 4) in the image frame."""

    image: LabelledImage
    proposals: Boxes


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

    Difficult objects are included, as in the reference implementation. Crowds are left out.
    """
    use = ~example.image.crowd
    return Target(
        torch.tensor(example.proposals, dtype=torch.float32),
        torch.tensor(example.image.gt_boxes[use], dtype=torch.float32).reshape(-1, 4),
        torch.tensor(example.image.gt_labels[use], dtype=torch.int64),
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
) -> Batch:
    """Read, decode and augment one rank's share of a step.

    Args:
        examples: the whole training set, in the same order on every rank.
        step: counted from 0.
        batch_size: images of the step over all ranks, at least one per rank. Shares differ by at most one.
        seed: seed of the run, for order, augmentation and samples.
        config: gives the augmentation and `train_nms`. The NMS runs here, beside the training step, because
            it takes about 8 ms per image.

    Raises:
        StorageError, ImageError: an image cannot be read now. It could be read when its proposals were made.
    """
    first, last = (step * batch_size + r * batch_size // world_size for r in (rank, rank + 1))
    batch = Batch([], [], [], [])
    for position in range(first, last):
        example = examples[image_at(position, len(examples), seed)]
        pixels = torch.from_numpy(decode(storage.read_bytes(example.image.image_uri)).pixels)
        target = target_of(example)
        (proposals,) = distinct([target.proposals], config.train_nms)
        target = target._replace(proposals=proposals)
        draw = partial(_hash, seed, position=position)
        pixels, target = augment(pixels, target, config, draw)
        batch.images.append(pixels)
        batch.targets.append(target)
        batch.seeds.append(_hash(seed, "sample", position))
        batch.image_uris.append(example.image.image_uri)
    return batch


def image_at(position: int, num_images: int, seed: int) -> int:
    """Give the index of the image at a position of the run. Each epoch has its permutation, drawn from the
    seed."""
    epoch, place = divmod(position, num_images)
    return int(_permutation(num_images, seed, epoch)[place])


@lru_cache(maxsize=4)
def _permutation(
    num_images: int, seed: int, epoch: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng([seed, epoch]).permutation(num_images)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Give the seed for random numbers that a rank draws within a step (dropout)."""
    return _hash(seed, f"step/{rank}", step)


def _hash(seed: int, purpose: str, position: int) -> int:
    """Make a seed of 56 bits from the run's seed, the purpose and the position."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
