"""Flips and turns change pixels and boxes together. Colour changes affect the pixels only."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from fastrcnn.augmentation import augment, crop, recolour, window
from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import Target
from fastrcnn.transform import random_zoom

HEIGHT, WIDTH = 4, 6
BOX = (1, 0, 3, 1)
PURPOSES = ("transposition", "flip", "vertical flip")


def painted() -> tuple[Tensor, Target]:
    """Make an image whose pixels all differ, and a box in it."""
    pixels = (
        torch.arange(HEIGHT * WIDTH, dtype=torch.uint8).reshape(HEIGHT, WIDTH, 1).repeat(1, 1, 3)
    )
    boxes = torch.tensor([BOX], dtype=torch.float32)
    return pixels, Target(boxes, boxes + 1, torch.tensor([2]), ignored=boxes + 1)


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
    for name in ("proposals", "gt_boxes", "ignored"):
        held = [inside(pixels, getattr(target, name)) for pixels, target in (before, after)]
        assert held[0] == held[1]
    assert torch.equal(after[1].gt_labels, before[1].gt_labels)


@pytest.mark.parametrize(
    ("changes", "views"),
    [
        ({"horizontal_flips": False}, 1),
        ({}, 2),
        ({"vertical_flips": True}, 4),
        ({"vertical_flips": True, "quarter_turns": True}, 8),
    ],
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


def cropped(window: tuple[int, int, int, int], **boxes: list[list[int]]) -> Target:
    pixels, _ = painted()
    given = {name: torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for name, b in boxes.items()}
    empty = torch.zeros(0, 4)
    gt_boxes = given.get("gt_boxes", empty)
    target = Target(
        given.get("proposals", empty),
        gt_boxes,
        torch.arange(1, len(gt_boxes) + 1),
        given.get("ignored"),
    )
    x1, y1, x2, y2 = window
    cut, target = crop(pixels, target, window)
    assert torch.equal(cut, pixels[y1:y2, x1:x2])
    return target


def test_an_object_stays_if_half_of_it_is_in_the_window() -> None:
    """The window is x 2 to 6, y 1 to 3. The objects are inside, half inside, a third inside, outside."""
    objects = [[3, 1, 5, 2], [1, 1, 3, 3], [0, 1, 3, 3], [0, 0, 2, 1]]
    target = cropped((2, 1, 6, 3), gt_boxes=objects, ignored=[[0, 0, 4, 2], [0, 0, 1, 4]])
    assert target.gt_boxes.tolist() == [[1, 0, 3, 1], [0, 0, 1, 2]]
    assert target.gt_labels.tolist() == [1, 2]
    assert target.ignored is not None
    assert target.ignored.tolist() == [[0, 0, 2, 1], [0, 0, 1, 2]]


def test_proposals_outside_the_window_are_left_out() -> None:
    target = cropped((2, 1, 6, 3), proposals=[[0, 0, 6, 4], [0, 0, 2, 4], [4, 2, 6, 4]])
    assert target.proposals.tolist() == [[0, 0, 4, 2], [2, 1, 4, 2]]
    assert target.ignored is None
    assert target.gt_boxes.shape == (0, 4)


def test_a_window_has_the_shape_of_the_image_and_lies_anywhere_in_it() -> None:
    pixels = torch.zeros(40, 60, 3)
    windows = {window(pixels, 2.0, (x, y)) for x in range(100) for y in range(100)}
    assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in windows} == {(30, 20)}
    assert {x1 for x1, _, _, _ in windows} == set(range(31))
    assert {y1 for _, y1, _, _ in windows} == set(range(21))
    assert window(torch.zeros(1, 5, 3), 1e9, (0, 0)) == (0, 0, 1, 1)


def test_the_logarithm_of_a_zoom_is_uniform() -> None:
    source = random.Random(7)
    seeds = [source.getrandbits(56) for _ in range(4000)]
    zooms = [random_zoom((0.5, 2.0), seed) for seed in seeds]
    assert min(zooms) >= 0.5
    assert max(zooms) <= 2.0
    shares = [
        sum(low <= z < low * 2**0.5 for z in zooms) / 4000 for low in (0.5, 0.5**0.5, 1, 2**0.5)
    ]
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_a_zoom_above_one_crops_and_one_below_keeps_the_pixels() -> None:
    target = Target(torch.zeros(0, 4), torch.tensor([[0.0, 0, 60, 40]]), torch.tensor([1]))
    for limits, shape in (((2.0, 2.0), (20, 30, 3)), ((0.5, 0.5), (40, 60, 3))):
        config = FastRCNNConfig(num_classes=1, crop_jitter=limits)
        pixels, _ = augment(torch.zeros(40, 60, 3), target, config, lambda purpose: 2)
        assert pixels.shape == shape
