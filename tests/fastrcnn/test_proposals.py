"""All proposers: the same image gives the same boxes in the same order, inside the image, best first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from fastrcnn.anchors import fit_grid
from fastrcnn.config import ProposalConfig
from fastrcnn.proposals import PROPOSERS, grid, opencv_selective_search, propose


def picture(height: int = 90, width: int = 120) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (height, width, 3), dtype=np.uint8)
    image[20:60, 30:80] = (220, 40, 40)
    image[50:85, 85:115] = (30, 60, 200)
    return image


@pytest.mark.parametrize("name", sorted(PROPOSERS))
@pytest.mark.parametrize("shape", [(90, 120), (20, 200), (21, 21), (1, 50), (1, 1)])
def test_boxes_lie_in_the_image_without_duplicates(name: str, shape: tuple[int, int]) -> None:
    height, width = shape
    boxes = propose(picture(100, 200)[:height, :width], ProposalConfig(name=name, max_boxes=100))
    assert boxes.dtype == np.float32
    assert boxes.ndim == 2
    assert boxes.shape[1] == 4
    assert len(boxes) <= 100
    assert bool((boxes[:, :2] >= 0).all())
    assert bool((boxes[:, 2:] <= np.array([width, height]) + 1e-3).all())
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())
    assert len(np.unique(boxes, axis=0)) == len(boxes)


@pytest.mark.parametrize("name", sorted(PROPOSERS))
def test_the_same_image_gives_the_same_boxes_in_the_same_order(name: str) -> None:
    config = ProposalConfig(name=name, max_boxes=50)
    assert np.array_equal(propose(picture(), config), propose(picture(), config))


@pytest.mark.parametrize("name", sorted(PROPOSERS))
def test_a_smaller_max_boxes_gives_the_first_boxes_or_a_sparser_grid(name: str) -> None:
    few = propose(picture(), ProposalConfig(name=name, max_boxes=10))
    many = propose(picture(), ProposalConfig(name=name, max_boxes=60))
    assert len(few) == min(10, len(many))
    if name != "grid":
        assert np.array_equal(many[:10], few)


def test_selective_search_finds_the_two_rectangles() -> None:
    boxes = torch.as_tensor(opencv_selective_search(picture()))
    gt = torch.tensor([[30.0, 20, 80, 60], [85.0, 50, 115, 85]])
    assert box_iou(gt, boxes).max(dim=1).values.min() > 0.8


def test_selective_search_keeps_no_box_below_the_smallest_side() -> None:
    boxes = opencv_selective_search(picture(), min_size=30)
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 30


def test_another_seed_gives_the_same_boxes_in_another_order() -> None:
    one, two = (opencv_selective_search(picture(), seed=s) for s in (0, 1))
    assert not np.array_equal(one, two)
    assert np.array_equal(np.unique(one, axis=0), np.unique(two, axis=0))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode='slow'"):
        opencv_selective_search(picture(), mode="slow")


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(50, 3000))
def test_a_grid_has_almost_max_boxes_and_holds_the_whole_image(
    height: int, width: int, max_boxes: int
) -> None:
    boxes = grid((height, width), max_boxes=max_boxes)
    assert 1 <= len(boxes) <= max_boxes
    assert boxes[0].tolist() == [0, 0, width, height]


def test_a_grid_of_four_thousand_covers_objects_of_many_sizes() -> None:
    # The same claim as on photographs, on drawn boxes: recall at IoU .5 of squares of 30 to 250 px.
    generator = torch.Generator().manual_seed(0)
    side = 30 * (250 / 30) ** torch.rand(400, 1, generator=generator)
    corner = torch.rand(400, 2, generator=generator) * (torch.tensor([640.0, 480.0]) - side)
    gt = torch.cat([corner, corner + side], dim=1)
    iou = box_iou(gt, torch.as_tensor(grid((480, 640), max_boxes=4000))).max(dim=1).values
    assert (iou >= 0.5).float().mean() > 0.97


def test_a_fitted_grid_has_the_given_shapes_at_every_image_size() -> None:
    shapes = ((0.5, 2.0), (0.1, 0.1))
    boxes = grid((100, 150), max_boxes=200, shapes=shapes)
    sizes = {(round(float(h), 3), round(float(w), 3)) for w, h in boxes[:, 2:] - boxes[:, :2]}
    assert sizes == {(100, 150), (50, 150), (10, 10)}  # the image; the first is cut to its width
    assert 150 < len(boxes) <= 200
    assert len(grid((3000, 4000), max_boxes=50, shapes=((1e-9, 1e-9),))) <= 50
    twice = grid((200, 300), max_boxes=200, shapes=shapes)
    np.testing.assert_allclose(twice, 2 * boxes, rtol=1e-5)


def test_a_fitted_grid_covers_more_boxes_of_the_same_kind() -> None:
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([[30.0, 90.0], [140.0, 45.0]])[
        torch.randint(2, (400,), generator=generator)
    ]
    size = size * (0.9 + 0.2 * torch.rand(400, 1, generator=generator))
    corner = torch.rand(400, 2, generator=generator) * (torch.tensor([640.0, 480.0]) - size)
    gt = torch.cat([corner, corner + size], dim=1)
    heights_widths = size[:200].flip(1).numpy() / 480
    config = ProposalConfig(name="grid", shapes=fit_grid(heights_widths), max_boxes=2000)
    image = np.zeros((480, 640, 3), np.uint8)
    recalls = [
        (box_iou(gt[200:], torch.as_tensor(propose(image, own))).amax(dim=1) >= 0.5).float().mean()
        for own in (config, replace(config, shapes=None))
    ]
    assert recalls[0] > 0.95
    assert recalls[1] < 0.5


def test_a_setting_that_is_none_is_not_hashed() -> None:
    assert "shapes" not in ProposalConfig(name="grid").settings()
    fitted = ProposalConfig(name="grid", shapes=((0.5, 0.5),))
    assert fitted.settings()["shapes"] == ((0.5, 0.5),)
    assert ProposalConfig(name="grid", shapes=[[0.5, 0.5]]) == fitted  # type: ignore[arg-type]
