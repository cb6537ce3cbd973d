"""Windows that a training step shows: their places, and what becomes of boxes at their edges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import Target
from fastrcnn.tiles import Tiling
from pipeline.training.examples import _hash
from pipeline.training.windows import show, window_of

SIZE = (300, 400)
TILING = Tiling(side=100)


def draws(seed: int, position: int) -> Callable[[str], int]:
    return partial(_hash, seed, position=position)


def fixed(**numbers: int) -> Callable[[str], int]:
    """Make a `draw` with these numbers, by purpose with underscores; 0 for the others."""
    return lambda purpose: numbers.get(purpose.replace(" ", "_"), 0)


def objects(*rows: tuple[float, float, float, float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_an_image_no_larger_than_a_tile_is_shown_whole() -> None:
    assert window_of((100, 100), objects(), TILING, 0.0, draws(0, 0)) is None


def test_a_share_of_the_images_is_shown_whole() -> None:
    shown = [window_of(SIZE, objects(), TILING, 0.2, draws(0, n)) for n in range(2000)]
    assert 0.17 < sum(window is None for window in shown) / 2000 < 0.23
    always = [window_of(SIZE, objects(), TILING, 1.0, draws(0, n)) for n in range(50)]
    assert always == [None] * 50


def test_half_of_the_windows_are_around_objects_and_the_others_anywhere() -> None:
    one = objects((200, 150, 210, 160))
    windows = [window_of(SIZE, one, TILING, 0.0, draws(1, n)) for n in range(2000)]
    with_it = [
        w for w in windows if w and w[0] <= 200 and w[2] >= 210 and w[1] <= 150 and w[3] >= 160
    ]
    # Half of them, and of the other half those that hold it by chance: (91 / 301) * (91 / 201) = .14.
    assert 0.53 < len(with_it) / 2000 < 0.61
    assert {w[0] for w in with_it} == set(range(110, 201))  # every place that holds the object


@given(st.integers(0, 10**6), st.floats(0, 390), st.floats(0, 290), st.floats(1, 99))
def test_a_window_has_the_size_of_a_tile_and_lies_in_the_image(
    position: int, x: float, y: float, side: float
) -> None:
    box = objects((x, y, min(x + side, 400), min(y + side, 300)))
    window = window_of(SIZE, box, TILING, 0.0, draws(5, position))
    assert window is not None
    x1, y1, x2, y2 = window
    assert (x2 - x1, y2 - y1) == (100, 100)
    assert 0 <= x1 <= 300
    assert 0 <= y1 <= 200


def test_a_window_around_an_object_contains_it() -> None:
    # "window" 0xFFFF is above any share of whole images; "window around" 0 means around an object.
    box = objects((200.5, 150.5, 250, 160))
    for place in range(60):
        draw = fixed(window=0xFFFF, window_x=place, window_y=place)
        window = window_of(SIZE, box, TILING, 0.2, draw)
        assert window is not None
        assert window[0] <= 200
        assert window[2] >= 250
        # x: from 250 - 100 = 150 to 200, 51 places; y: from 60 to 150.
        assert window[0] == 150 + place % 51
        assert window[1] == 60 + place


def test_windows_are_not_placed_around_objects_that_do_not_fit() -> None:
    wide, small = (0, 0, 150, 20), (350, 250, 360, 260)
    draw = fixed(window=0xFFFF, window_object=1)
    window = window_of(SIZE, objects(wide, small), TILING, 0.2, draw)
    assert window == (
        260,
        160,
        360,
        260,
    )  # the only object that fits has the number 0, and 1 % 1 is 0


def target(*gt: tuple[float, float, float, float], proposals: Any = ()) -> Target:
    return Target(
        torch.from_numpy(objects(*proposals)),
        torch.from_numpy(objects(*gt)),
        torch.arange(1, len(gt) + 1),
        None,
    )


def config(**changes: Any) -> FastRCNNConfig:
    return FastRCNNConfig.modern(3, backbone="tiny", **changes)


def test_boxes_at_the_edge_of_the_window_stay_with_half_inside_or_are_ignored() -> None:
    pixels = torch.arange(300 * 400 * 3).reshape(300, 400, 3).to(torch.uint8)
    # Around the first object the window is (100, 0, 200, 100): x from 200 - 100 to 100, y from 0.
    boxes = target(
        (100, 10, 200, 100),
        (90, 20, 110, 30),  # 10 of 20 px inside
        (89, 40, 110, 50),  # 10 of 21 px inside
        (300, 10, 310, 20),
        proposals=[(150, 50, 260, 100), (150, 50, 240, 100), (0, 0, 400, 300)],
    )
    draw = fixed(window=0xFFFF)
    shown, cut = show(pixels, boxes, config(tile=100, whole_share=0.0), draw)
    assert torch.equal(shown, pixels[:100, 100:200])
    assert shown.untyped_storage().nbytes() == 100 * 100 * 3  # not a view of the whole image
    assert cut.gt_boxes.tolist() == [[0, 10, 100, 100], [0, 20, 10, 30]]
    assert cut.gt_labels.tolist() == [1, 2]
    assert cut.ignored is not None
    assert cut.ignored.tolist() == [[0, 40, 10, 50]]
    assert cut.proposals.tolist() == [[50, 50, 100, 100]]  # 50 of 90 px; 50 of 110 are too few


def test_a_whole_image_has_its_first_proposals_and_nothing_changes_without_tiles() -> None:
    pixels = torch.zeros(300, 400, 3, dtype=torch.uint8)
    boxes = target((0, 0, 10, 10), proposals=[(0, 0, 9, 9), (1, 1, 9, 9), (2, 2, 9, 9)])
    shown, whole = show(pixels, boxes, config(tile=100), fixed(), max_proposals=2)
    assert shown is pixels
    assert len(whole.proposals) == 2
    same = show(pixels, boxes, config(), fixed(), max_proposals=2)
    assert same == (pixels, boxes)
