"""Box geometry on hand-computed boxes, with continuous edges (R-CNN's appendix C and the reference code)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrcnn.boxes import MAX_LOG_RATIO, clip, decode, encode, flip

PROPOSAL = torch.tensor([[10.0, 20.0, 50.0, 100.0]])
GT = torch.tensor([[14.0, 18.0, 58.0, 90.0]])


def test_deltas_equal_hand_computed_ones() -> None:
    deltas = encode(PROPOSAL, GT)
    torch.testing.assert_close(deltas, torch.tensor([[0.15, -0.075, 0.0953102, -0.1053605]]))


def test_weights_multiply_the_deltas() -> None:
    deltas = encode(PROPOSAL, GT, weights=(10, 10, 5, 5))
    torch.testing.assert_close(deltas, torch.tensor([[1.5, -0.75, 0.4765509, -0.5268026]]))
    torch.testing.assert_close(decode(PROPOSAL, deltas, weights=(10, 10, 5, 5))[:, 0], GT)


def test_no_pixel_is_added_to_a_width() -> None:
    # py-faster-rcnn's "+1" returns (14, 18, 59, 91) here.
    torch.testing.assert_close(decode(PROPOSAL, encode(PROPOSAL, GT))[:, 0], GT)


box = st.tuples(
    st.floats(0, 500, width=32),
    st.floats(0, 500, width=32),
    st.floats(1, 300, width=32),
    st.floats(1, 300, width=32),
).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


def test_each_class_is_decoded_from_its_columns() -> None:
    deltas = torch.tensor([[0.0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.25, math.log(2), 0]])
    boxes = decode(PROPOSAL, deltas)
    expected = [[10.0, 20, 50, 100], [30.0, 20, 70, 100], [-10.0, 40, 70, 120]]
    torch.testing.assert_close(boxes, torch.tensor([expected]))


def test_a_box_grows_at_most_by_a_thousand_over_sixteen() -> None:
    boxes = decode(torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([[0.0, 0, 50, 50]]))
    torch.testing.assert_close(boxes[0, 0, 2:] - boxes[0, 0, :2], torch.tensor([1000.0, 1000.0]))
    assert pytest.approx(4.1352, abs=1e-4) == MAX_LOG_RATIO


def test_empty_inputs_give_empty_outputs() -> None:
    none = torch.zeros(0, 4)
    assert encode(none, none).shape == (0, 4)
    assert decode(none, torch.zeros(0, 12)).shape == (0, 3, 4)
    assert clip(none, (10, 10)).shape == (0, 4)


def test_clip_takes_height_then_width() -> None:
    clipped = clip(torch.tensor([[-5.0, -5, 300, 300]]), (100, 200))
    torch.testing.assert_close(clipped, torch.tensor([[0.0, 0, 200, 100]]))


def test_each_box_of_several_images_is_clipped_to_its_image() -> None:
    boxes = torch.tensor([[-5.0, -5, 300, 300]]).repeat(2, 1)
    sizes = torch.tensor([[100, 200], [50, 60]])
    expected = torch.tensor([[0.0, 0, 200, 100], [0, 0, 60, 50]])
    torch.testing.assert_close(clip(boxes, sizes), expected)
    torch.testing.assert_close(clip(boxes[:, None], sizes[:, None]), expected[:, None])


def test_a_flipped_box_mirrors_its_edges() -> None:
    # Continuous edges: (10, 20) of width 100 -> (80, 90). (The reference's inclusive pixels give 79, 89.)
    torch.testing.assert_close(
        flip(torch.tensor([[10.0, 0, 20, 5]]), 100), torch.tensor([[80.0, 0, 90, 5]])
    )


@given(st.lists(box, min_size=1, max_size=8), st.integers(801, 2000))
def test_flipping_twice_is_the_identity_and_stays_inside(
    boxes: list[list[float]], width: int
) -> None:
    given_boxes = torch.tensor(boxes, dtype=torch.float64)
    once = flip(given_boxes, width)
    assert bool((once[:, 0] >= 0).all())
    assert bool((once[:, 2] <= width).all())
    assert bool((once[:, 2] > once[:, 0]).all())
    torch.testing.assert_close(flip(once, width), given_boxes)
