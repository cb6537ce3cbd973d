"""RoI pooling compared with Caffe's layer: hand-computed maxima, rounding and gradients."""

from __future__ import annotations

import pytest
import torch

from fastrcnn.pooling import fpn_levels, pool, roi_align_pool, roi_max_pool, scale_levels

ARANGE = torch.arange(64.0).reshape(1, 1, 8, 8)


def rois(*boxes: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([(0.0, *box) for box in boxes])


def test_bins_overlap() -> None:
    pooled = roi_max_pool(ARANGE, rois((0, 0, 4, 4)), 2, 1.0)
    assert pooled.flatten().tolist() == [18, 20, 34, 36]


def test_align_averages_four_samples_per_bin() -> None:
    pooled = roi_align_pool(ARANGE, rois((0, 0, 4, 4)), 2, 1.0)
    assert pooled.flatten().tolist() == [4.5, 6.5, 20.5, 22.5]


@pytest.mark.parametrize(("x", "cell"), [(7, 0), (8, 1), (24, 2), (40, 3)])
def test_corners_round_half_away_from_zero(x: float, cell: int) -> None:
    pooled = roi_max_pool(ARANGE, rois((x, 0, x, 0)), 1, 1 / 16)
    assert pooled.item() == cell


def test_an_roi_of_size_zero_covers_one_cell_that_gets_the_gradients_of_all_bins() -> None:
    features = ARANGE.clone().requires_grad_()
    pooled = roi_max_pool(features, rois((3, 3, 3, 3)), 6, 1.0)
    assert pooled.unique().tolist() == [27]
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad[0, 0, 3, 3] == 36
    assert features.grad.sum() == 36


def test_a_bin_outside_the_map_is_zero_and_passes_no_gradient() -> None:
    features = ARANGE.clone().requires_grad_()
    pooled = roi_max_pool(features, rois((20, 20, 30, 30)), 2, 1.0)
    assert pooled.abs().sum() == 0
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() == 0


def test_rois_that_share_a_maximum_add_their_gradients() -> None:
    features = ARANGE.clone().requires_grad_()
    roi_max_pool(features, rois((0, 0, 4, 4), (2, 2, 4, 4)), 1, 1.0).sum().backward()
    assert features.grad is not None
    assert features.grad[0, 0, 4, 4] == 2
    assert features.grad.sum() == 2


def test_the_first_of_equal_maxima_gets_the_gradient() -> None:
    features = torch.ones(1, 1, 4, 4, requires_grad=True)
    roi_max_pool(features, rois((0, 0, 3, 3)), 1, 1.0).sum().backward()
    assert features.grad is not None
    assert features.grad[0, 0, 0, 0] == 1
    assert features.grad.sum() == 1


def test_gradients_equal_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randperm(2 * 36, generator=generator).double().reshape(1, 2, 6, 6)  # no ties
    values.requires_grad_()
    boxes = torch.tensor([[0.0, 0, 0, 5, 5], [0, 1, 2, 4, 5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: roi_max_pool(x, boxes, 3, 1.0), (values,), eps=1e-3, atol=1e-6
    )


def test_the_pyramid_level_depends_on_the_side_of_the_box() -> None:
    sides = torch.tensor([10.0, 111.0, 112.0, 223.0, 224.0, 448.0, 2000.0])
    boxes = torch.stack([torch.zeros(7), torch.zeros(7), sides, sides], dim=1)
    assert fpn_levels(boxes, 4).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_each_roi_is_pooled_from_its_level() -> None:
    maps = [torch.full((1, 2, 64 // 2**i, 64 // 2**i), float(i)).requires_grad_() for i in range(4)]
    boxes = rois((0, 0, 60, 60), (0, 0, 250, 250), (0, 0, 120, 120))
    pooled = pool(maps, boxes, (4, 8, 16, 32), 3, "align")
    assert pooled[:, 0, 1, 1].tolist() == [0, 2, 1]
    pooled.sum().backward()
    assert all(m.grad is not None for m in maps)  # an empty level's gradient is zero, not missing


def test_small_boxes_go_to_large_scales() -> None:
    sides = torch.tensor([50.0, 100.0, 150.0, 224.0])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), sides, sides], dim=1)
    assert scale_levels(boxes, (480, 576, 688, 864, 1200), (500, 375)).tolist() == [4, 3, 1, 0]
