"""Labelled images to training batches: the same order, flips and samples whatever the number of workers.

A *position* counts images since the start of the run. Position p is image permutation(epoch)[p mod n] of
epoch p // n, flipped or not by a coin of its own, its RoIs sampled by a seed of its own. A step takes
`batch_size` consecutive positions; a rank takes its slice of them. So every rank makes the same number of
steps, every image is seen once an epoch, and one worker or four see the same batches.
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
    """One labelled image and its proposals; what a worker needs to make a training input of it."""

    image: LabelledImage
    proposals: Boxes


@dataclass(frozen=True, slots=True)
class Batch:
    """A rank's share of one step."""

    images: list[Tensor]
    """(H, W, 3) uint8 RGB."""
    targets: list[Target]
    seeds: list[int]
    """Of the RoI samples."""
    image_uris: list[str]


def target_of(example: Example) -> Target:
    """Ground truth that is trained on: difficult objects are (as in the reference code), crowds are not."""
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
    """Read, decode and augment a rank's share of a step.

    Args:
        examples: all of the training set, in the same order on every rank.
        step: from 0.
        batch_size: images over all ranks, no fewer than there are; shares differ by one at most.
        seed: of order, augmentation and samples.
        config: what augments, and `train_nms`: here, since it costs some 8 ms an image and the step shall
            not wait.

    Raises:
        StorageError, ImageError: an image was readable when its proposals were made, and is not now.
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
    """Index of the image at a position of the run: a fresh seeded permutation each epoch."""
    epoch, place = divmod(position, num_images)
    return int(_permutation(num_images, seed, epoch)[place])


@lru_cache(maxsize=4)
def _permutation(
    num_images: int, seed: int, epoch: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng([seed, epoch]).permutation(num_images)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Of what a rank draws inside a step (dropout)."""
    return _hash(seed, f"step/{rank}", step)


def _hash(seed: int, purpose: str, position: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
