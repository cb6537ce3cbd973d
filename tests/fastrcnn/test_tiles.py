"""The grid of tiles, and boxes in the frames of windows. All numbers are computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.proposals import propose
from fastrcnn.proposals.tiled import propose_on_tiles
from fastrcnn.tiles import Tiling, in_image, in_window, mostly_inside


def boxes(
    *rows: tuple[float, float, float, float],
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_the_last_tile_of_a_row_and_of_a_column_is_flush_with_the_edge() -> None:
    # Step 100 - 20 = 80: columns at 0, 80 and 250 - 100 = 150; rows at 0 and 130 - 100 = 30.
    grid = Tiling(side=100, overlap=0.2).grid((130, 250))
    assert grid == [
        (0, 0, 100, 100),
        (80, 0, 180, 100),
        (150, 0, 250, 100),
        (0, 30, 100, 130),
        (80, 30, 180, 130),
        (150, 30, 250, 130),
    ]


@pytest.mark.parametrize(("side", "tiles"), [(640, 48), (1024, 20)])
def test_a_photograph_of_12_megapixels_has_these_tiles(side: int, tiles: int) -> None:
    # 640: step 512, ceil(3872 / 512) = 8 columns, ceil(2872 / 512) = 6 rows. 1024: step 819, 5 and 4.
    assert len(Tiling(side=side).grid((3000, 4000))) == tiles


def test_an_image_no_larger_than_a_tile_has_none() -> None:
    tiling = Tiling(side=100)
    assert tiling.grid((100, 100)) == tiling.grid((7, 100)) == []
    assert tiling.grid((100, 101)) == [(0, 0, 100, 100), (1, 0, 101, 100)]


def test_a_short_side_has_one_row_of_its_length() -> None:
    assert Tiling(side=100, overlap=0).grid((30, 200)) == [(0, 0, 100, 30), (100, 0, 200, 30)]


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(32, 120),
    st.sampled_from([0, 0.2, 0.5, 0.8]),
)
def test_tiles_cover_the_image_and_an_object_of_the_overlap_is_whole_in_one(
    height: int, width: int, side: int, overlap: float
) -> None:
    tiling = Tiling(side=side, overlap=overlap)
    grid = tiling.grid((height, width)) or [(0, 0, width, height)]
    covered = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in grid:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(side, width), min(side, height)) or len(grid) == 1
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    shared = min(round(overlap * side), width)
    for left in range(width - shared + 1):
        assert any(x1 <= left and left + shared <= x2 for x1, _, x2, _ in grid)


def test_a_box_belongs_to_a_window_with_half_of_it_inside() -> None:
    window = (10, 0, 20, 10)
    given = boxes((5, 0, 15, 10), (4, 0, 15, 10), (12, 2, 14, 4), (30, 0, 40, 10), (12, 2, 12, 4))
    # Inside: 5 of 10 pixels of width; 5 of 11; all; none; no area.
    assert mostly_inside(given, window).tolist() == [True, False, True, False, False]
    assert in_window(given, window).tolist() == [[0, 0, 5, 10], [2, 2, 4, 4]]


def test_boxes_move_to_a_window_and_back() -> None:
    inside = boxes((12, 3, 14, 9), (10, 0, 20, 10))
    window = (10, 0, 20, 10)
    assert in_image(in_window(inside, window), window).tolist() == inside.tolist()
    assert in_window(boxes(), window).shape == (0, 4)


def test_the_tiling_of_a_model_is_that_of_its_config() -> None:
    plain = FastRCNNConfig.modern(1, backbone="tiny")
    assert Tiling.of(plain) is None
    tiled = FastRCNNConfig.modern(1, backbone="tiny", tile=640, tile_overlap=0.1)
    assert Tiling.of(tiled) == Tiling(side=640, overlap=0.1)


def test_a_pyramid_with_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="tile=640, pyramid=.*only one of them"):
        FastRCNNConfig.modern(1, backbone="tiny", pyramid=(320, 480), tile=640)


def test_proposals_of_tiles_follow_those_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 150, 3), np.uint8)
    config = ProposalConfig(name="grid", mode="unfitted", max_boxes=50)
    joined = propose_on_tiles(image, config, Tiling(side=90, overlap=0))
    parts = [propose(image, config), propose(image[:, :90], config), propose(image[:, 60:], config)]
    assert (
        joined.tolist()
        == np.concatenate([parts[0], parts[1], in_image(parts[2], (60, 0, 150, 90))]).tolist()
    )
    assert propose_on_tiles(image, config, None).tolist() == parts[0].tolist()
