"""Flips and turns change pixels and boxes together. Colour changes affect the pixels only."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from fastrcnn.augmentation import augment, recolour
from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import Target

HEIGHT, WIDTH = 4, 6
BOX = (1, 0, 3, 1)
PURPOSES = ("transposition", "flip", "vertical flip")


def painted() -> tuple[Tensor, Target]:
    """Make an image whose pixels all differ, and a box in it."""
    pixels = (
        torch.arange(HEIGHT * WIDTH, dtype=torch.uint8).reshape(HEIGHT, WIDTH, 1).repeat(1, 1, 3)
    )
    boxes = torch.tensor([BOX], dtype=torch.float32)
    return pixels, Target(boxes, boxes + 1, torch.tensor([2]))


def inside(pixels: Tensor, boxes: Tensor) -> list[int]:
    x1, y1, x2, y2 = (int(edge) for edge in boxes[0])
    return sorted(pixels[y1:y2, x1:x2, 0].flatten().tolist())


def drawn(bits: int) -> dict[str, int]:
    return {purpose: bits >> place & 1 for place, purpose in enumerate(PURPOSES)}


def turned(bits: int, **changes: object) -> tuple[Tensor, Target]:
    config = FastRCNNConfig(num_classes=2, **changes)
    return augment(*painted(), config, lambda purpose: drawn(bits)[purpose])


@pytest.mark.parametrize("bits", range(8))
def test_boxes_hold_the_same_pixels_after_every_flip_and_turn(bits: int) -> None:
    before, after = painted(), turned(bits, vertical_flips=True, quarter_turns=True)
    assert after[0].shape == ((WIDTH, HEIGHT, 3) if bits & 1 else (HEIGHT, WIDTH, 3))
    for name in ("proposals", "gt_boxes"):
        held = [inside(pixels, getattr(target, name)) for pixels, target in (before, after)]
        assert held[0] == held[1]
    assert torch.equal(after[1].gt_labels, before[1].gt_labels)


@pytest.mark.parametrize(
    ("changes", "views"),
    [({}, 2), ({"vertical_flips": True}, 4), ({"vertical_flips": True, "quarter_turns": True}, 8)],
)
def test_each_flip_or_turn_doubles_the_number_of_views(
    changes: dict[str, bool], views: int
) -> None:
    seen = Counter(
        tuple(turned(bits, **changes)[0][..., 0].flatten().tolist()) for bits in range(8)
    )
    assert sorted(seen.values()) == [8 // views] * views


def test_a_transposed_box_has_its_edges_swapped() -> None:
    assert turned(1, vertical_flips=True, quarter_turns=True)[1].proposals.tolist() == [
        [0, 1, 1, 3]
    ]


def test_colours_are_multiplied_as_computed_by_hand() -> None:
    pixels = torch.tensor([[[100, 50, 0], [60, 60, 60]]], dtype=torch.uint8)
    assert torch.equal(recolour(pixels, 1, 1, 1), pixels)
    assert recolour(pixels, 1.5, 1, 1).tolist() == [[[150, 75, 0], [90, 90, 90]]]
    # Grey is .2989 R + .587 G + .114 B (ITU-R 601), here rounded down: 59.24 and 59.99. With saturation 0
    # each pixel is its grey value. With contrast 0 each pixel is the mean grey value.
    assert recolour(pixels, 1, 1, 0).flatten().unique().tolist() == [59]
    assert recolour(pixels, 1, 0, 1).flatten().unique().tolist() == [59]


def test_colours_stay_within_the_jitter_and_boxes_do_not_move() -> None:
    pixels = torch.full((3, 5, 3), 100, dtype=torch.uint8)
    config = FastRCNNConfig(num_classes=2, color_jitter=0.2)
    means = []
    for seed in range(50):
        chance = random.Random(seed)
        seen, target = augment(
            pixels, painted()[1], config, lambda _, r=chance: 2 * r.getrandbits(40)
        )
        assert torch.equal(target.gt_boxes, painted()[1].gt_boxes)
        means.append(seen.float().mean().item())
    assert 78 <= min(means) < 90  # two below, for each step rounds
    assert 110 < max(means) <= 120


def test_colours_do_not_change_without_jitter() -> None:
    pixels, _ = turned(0)
    assert torch.equal(pixels, painted()[0])


def test_quarter_turns_need_vertical_flips() -> None:
    with pytest.raises(ValueError, match="expected vertical_flips=true with quarter_turns"):
        FastRCNNConfig(num_classes=2, quarter_turns=True)


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_jitter_that_could_turn_an_image_black_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="color_jitter"):
        FastRCNNConfig(num_classes=2, color_jitter=value)
