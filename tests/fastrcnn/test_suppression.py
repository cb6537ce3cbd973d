from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrcnn.suppression import distinct, suppress, suppress_together, true_indices

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
