"""Tests of training batches: they depend on seed and position, not on the number of workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastrcnn.config import FastRCNNConfig
from pipeline.annotations import LabelledImage
from pipeline.training.examples import Batch, Example, load_batch, step_seed, target_of
from pipeline.training.order import ImageOrder

CONFIG = FastRCNNConfig(num_classes=2)


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    out = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.fromarray(np.full((20, 30, 3), index * 10, np.uint8)).save(path)
        image = LabelledImage(
            image_uri=str(path),
            annotation_uri="",
            gt_boxes=np.array([[1, 2, 11, 12], [0, 0, 30, 20]], np.float32),
            gt_labels=np.array([1, 2]),
            difficult=np.array([True, False]),
            crowd=np.array([False, True]),
            image_id=str(index),
        )
        out.append(Example(image, np.array([[2, 2, 12, 12]], np.float32)))
    return out


def joined(batches: list[Batch]) -> list[tuple[str, int, list[float], float]]:
    return [
        (uri, seed, target.gt_boxes.flatten().tolist(), float(pixels.float().mean()))
        for batch in batches
        for pixels, target, seed, uri in zip(
            batch.images, batch.targets, batch.seeds, batch.image_uris, strict=True
        )
    ]


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("changes", [{}, {"crop_jitter": (0.5, 2.0)}, {"tile": 32}])
def test_the_shares_of_all_ranks_are_the_batch_of_one_worker(
    examples: list[Example], world_size: int, changes: dict[str, Any]
) -> None:
    config = replace(CONFIG, **changes)
    for example in examples[: 5 if config.tile else 0]:  # a tile has 32 px or more
        path = example.image.image_uri
        Image.open(path).resize((90, 60)).save(path)
    order = ImageOrder(5, 3, np.array([1.0, 2, 1, 1, 1]))
    for step in range(6):
        whole = load_batch(examples, step, 4, 3, config, order=order)
        shares = [
            load_batch(examples, step, 4, 3, config, rank=rank, world_size=world_size, order=order)
            for rank in range(world_size)
        ]
        assert joined([whole]) == joined(shares)


def test_train_nms_removes_near_duplicate_proposals(
    examples: list[Example],
) -> None:
    boxes = np.array([[2, 2, 12, 12], [2, 2, 12, 11], [9, 9, 19, 19]], np.float32)
    given = [replace(example, proposals=boxes) for example in examples]
    for step in range(5):
        ((few,), (all_,)) = (
            load_batch(given, step, 1, 3, replace(CONFIG, train_nms=iou)).targets
            for iou in (0.8, None)
        )
        assert torch.equal(
            few.proposals, all_.proposals[[0, 2]]
        )  # the second has an IoU of .9 with the first
        assert torch.equal(few.gt_boxes, all_.gt_boxes)


def test_image_proposals_and_ground_truth_are_flipped_together(examples: list[Example]) -> None:
    seen = set()
    for step in range(20):
        batch = load_batch(examples, step, 1, 3, CONFIG)
        box, proposal = (
            batch.targets[0].gt_boxes[0].tolist(),
            batch.targets[0].proposals[0].tolist(),
        )
        flipped = box == [19, 2, 29, 12]
        assert flipped or box == [1, 2, 11, 12]
        assert proposal == ([18, 2, 28, 12] if flipped else [2, 2, 12, 12])
        seen.add(flipped)
    assert seen == {True, False}


def test_vertical_flips_turn_some_images_upside_down(
    examples: list[Example],
) -> None:
    seen = set()
    for step in range(30):
        sideways, batch = (
            load_batch(examples, step, 1, 3, replace(CONFIG, vertical_flips=asked))
            for asked in (False, True)
        )
        height = batch.images[0].shape[0]
        (x1, y1, x2, y2) = sideways.targets[0].gt_boxes[0].tolist()
        box = batch.targets[0].gt_boxes[0].tolist()
        turned = box != [x1, y1, x2, y2]
        if turned:
            assert box == [x1, height - y2, x2, height - y1]
            (px1, py1, px2, py2) = sideways.targets[0].proposals[0].tolist()
            assert batch.targets[0].proposals[0].tolist() == [px1, height - py2, px2, height - py1]
        expected = sideways.images[0].flip(0) if turned else sideways.images[0]
        assert torch.equal(batch.images[0], expected)
        seen.add(turned)
    assert seen == {True, False}


def test_crowds_are_not_trained_on_and_difficult_objects_are(examples: list[Example]) -> None:
    target = target_of(examples[0])
    assert target.gt_labels.tolist() == [1]
    assert target.gt_boxes.tolist() == [[1, 2, 11, 12]]


def test_crowds_and_regions_nobody_knows_are_ignored_regions(examples: list[Example]) -> None:
    region = np.array([[5, 5, 9, 9]], np.float32)
    image = replace(examples[0].image, ignored=region)
    ignored = target_of(replace(examples[0], image=image)).ignored
    assert ignored is not None
    assert ignored.tolist() == [[5, 5, 9, 9], [0, 0, 30, 20]]
    assert target_of(replace(examples[0], crowds_ignored=False)).ignored is None


def test_ignored_regions_are_flipped_with_the_image(examples: list[Example]) -> None:
    region = np.array([[5, 4, 9, 8]], np.float32)
    image = replace(examples[0].image, ignored=region, crowd=np.zeros(2, np.bool_))
    one = [replace(examples[0], image=image)]
    seen = set()
    for step in range(8):
        target = load_batch(one, step, 1, 3, CONFIG).targets[0]
        assert target.ignored is not None
        seen.add(tuple(target.ignored[0].tolist()))
    assert seen == {(5, 4, 9, 8), (21, 4, 25, 8)}


def test_another_seed_gives_other_batches(examples: list[Example]) -> None:
    runs = [[load_batch(examples, s, 2, seed, CONFIG) for s in range(5)] for seed in (3, 4, 3)]
    assert joined(runs[0]) == joined(runs[2])
    assert joined(runs[0]) != joined(runs[1])


def test_each_rank_and_step_has_another_dropout_seed() -> None:
    assert len({step_seed(3, step, rank) for step in range(10) for rank in range(4)}) == 40
    assert torch.manual_seed(step_seed(3, 0, 0)) is not None
