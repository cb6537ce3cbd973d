from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from fastrcnn import suppression
from fastrcnn.suppression import distinct, suppress, suppress_together, true_indices
from tests.pretended_gpu import on_gpu, pretended_gpu

IMAGES = st.lists(st.integers(0, 40), min_size=1, max_size=4)
"""Number of boxes of each image."""


@settings(max_examples=60, deadline=None)
@given(IMAGES, st.integers(0, 2**20), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_one_call_for_all_images_gives_the_result_of_each_image(
    sizes: list[int], seed: int, iou_threshold: float
) -> None:
    """The GPU's code runs on the CPU here. Boxes are far from 0, where float32 is coarse."""
    generator = torch.Generator().manual_seed(seed)
    boxes, scores, kinds = [], [], []
    for size in sizes:
        corners = torch.rand(size, 2, generator=generator) * 60 + 4000
        sides = torch.rand(size, 2, generator=generator) * 40 + 1
        boxes.append(torch.cat([corners, corners + sides], dim=1))
        scores.append(torch.rand(size, generator=generator))
        kinds.append(torch.randint(0, 3, (size,), generator=generator))
    alone = suppress(boxes, scores, kinds, iou_threshold)
    together = suppress_together(boxes, scores, kinds, iou_threshold)
    assert [own.tolist() for own in together] == [own.tolist() for own in alone]
    for own, values in zip(alone, scores, strict=True):
        assert values[own].tolist() == sorted(values[own].tolist(), reverse=True)


def random_boxes(size: int, generator: torch.Generator, at: float = 0.0) -> tuple[Tensor, ...]:
    """Draw boxes around a place, scores of which many are equal, and one of three kinds for each."""
    corners = torch.rand(size, 2, generator=generator) * 60 + at
    boxes = torch.cat([corners, corners + 1 + 40 * torch.rand(size, 2, generator=generator)], dim=1)
    scores = torch.randint(0, 50, (size,), generator=generator) / 50
    return boxes, scores, torch.randint(0, 3, (size,), generator=generator)


def one_after_the_other(
    boxes: Tensor, scores: Tensor, kinds: Tensor, iou_threshold: float
) -> list[int]:
    """Suppress as the definition says."""
    kept: list[int] = []
    overlap = box_iou(boxes.double(), boxes.double()) > iou_threshold
    for index in scores.argsort(descending=True, stable=True).tolist():
        if not any(overlap[index, k] and kinds[index] == kinds[k] for k in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("at", [0.0, -30.0, -5000.0])
@pytest.mark.parametrize("few", [0, 1000])
def test_every_way_follows_the_definition_also_at_negative_coordinates(
    few: int, at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few = 0, a CPU goes kind by kind."""
    monkeypatch.setattr(suppression, "FEW", few)
    images = [random_boxes(90, torch.Generator().manual_seed(seed), at) for seed in range(3)]
    columns = [list(column) for column in zip(*images, strict=True)]
    expected = [one_after_the_other(*image, 0.4) for image in images]
    assert all(len(rows) < 85 for rows in expected)
    for call in (suppress, suppress_together):
        assert [rows.tolist() for rows in call(*columns, 0.4)] == expected


@pytest.mark.parametrize("most", [3, 8, 30, 500])
def test_the_best_few_are_those_of_all(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All boxes of the second image are on one place, so the best 40 leave too few."""
    boxes, scores, kinds = random_boxes(300, torch.Generator().manual_seed(0))
    pile = torch.cat([boxes[:1].repeat(200, 1), boxes[:60]])
    height = torch.linspace(1, 0, 260)
    columns = [boxes, pile], [scores, height], [kinds, torch.zeros_like(kinds)[:260]]
    whole = suppress(*columns, 0.4)
    monkeypatch.setattr(suppression, "PREFIX", 40)
    assert [r.tolist() for r in suppress(*columns, 0.4, most=most)] == [
        rows[:most].tolist() for rows in whole
    ]


def test_slices_of_images_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [random_boxes(n, torch.Generator().manual_seed(n)) for n in (30, 0, 70, 20, 5)]
    columns = [list(column) for column in zip(*images, strict=True)]
    whole = suppress(*columns, 0.4)
    monkeypatch.setattr(suppression, "MOST_AT_ONCE", 50)
    assert suppression._slices([30, 0, 70, 20, 5]) == [(0, 2), (2, 3), (3, 5)]
    with pretended_gpu():
        found = suppress(*([on_gpu(part) for part in column] for column in columns), 0.4)
        assert [rows.tolist() for rows in found] == [rows.tolist() for rows in whole]
    assert suppression._slices([]) == []


def test_boxes_suppress_only_boxes_of_the_same_kind_and_image() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])
    boxes, scores = [box.repeat(3, 1), box], [torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0.1])]
    kinds = [torch.tensor([0, 0, 1]), torch.tensor([0])]
    for call in (suppress, suppress_together):
        assert [own.tolist() for own in call(boxes, scores, kinds, 0.5)] == [[1, 2], [0]]
    assert [own.tolist() for own in suppress(boxes, scores, None, 0.5)] == [[1], [0]]


def test_no_images_and_images_without_boxes_give_empty_results() -> None:
    assert suppress([], [], None, 0.5) == []
    none = [torch.zeros(0, 4)] * 2, [torch.zeros(0)] * 2
    kinds = [torch.zeros(0, dtype=torch.int64)] * 2
    for found in (suppress(*none, None, 0.5), suppress_together(*none, kinds, 0.5)):
        assert [own.tolist() for own in found] == [[], []]
    assert [own.shape for own in distinct(none[0], 0.5)] == [(0, 4)] * 2


def test_true_indices_are_counted_for_each_image() -> None:
    index, counts = true_indices(torch.tensor([True, False, True, True, False]), [2, 0, 3])
    assert (index.tolist(), counts) == ([0, 2, 3], [1, 0, 2])
    assert true_indices(torch.zeros(0, dtype=torch.bool), [])[1] == []
