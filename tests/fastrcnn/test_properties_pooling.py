"""Properties of RoI max pooling and of RoIAlign for every map and RoI."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fastrcnn.align import roi_align_levels
from fastrcnn.pooling import pool, roi_align_pool, roi_max_pool

ROWS, COLUMNS = 10, 13
quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**20)
bins = st.sampled_from([1, 2, 3, 7])
strides = st.sampled_from([1, 8, 16])


def random_map(seed: int, images: int = 2, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, ROWS, COLUMNS, generator=generator, dtype=torch.float64)


def random_rois(seed: int, stride: int, *, inside: bool = False, count: int = 9) -> Tensor:
    """Make RoIs (count, 5) of two images. They may reach over the edge, but not with `inside`."""
    generator = torch.Generator().manual_seed(seed + 1)
    limit = torch.tensor([COLUMNS, ROWS], dtype=torch.float64)
    ends = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64).sort(dim=1).values
    ends = 1 + ends * (limit - 2) if inside else ends * limit * 1.4 - 0.2 * limit
    batch = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat([batch.double(), ends.flatten(1) * stride], dim=1)


def by_gather(maps: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    levels = torch.zeros(len(rois), dtype=torch.int64)
    return roi_align_levels([maps], rois, levels, [round(1 / scale)], size)


@pytest.mark.parametrize("layer", [roi_max_pool, roi_align_pool, by_gather])
@quick
@given(seeds, bins, strides)
def test_each_roi_is_pooled_independently(layer: object, seed: int, size: int, stride: int) -> None:
    maps, rois = random_map(seed), random_rois(seed, stride)
    pooled = layer(maps, rois, size, 1 / stride)  # type: ignore[operator]
    order = torch.randperm(len(rois), generator=torch.Generator().manual_seed(seed))
    mixed = layer(maps, rois[order], size, 1 / stride)  # type: ignore[operator]
    torch.testing.assert_close(mixed, pooled[order])
    swapped = rois.clone()
    swapped[:, 0] = 1 - swapped[:, 0]
    other = layer(maps.flip(0), swapped, size, 1 / stride)  # type: ignore[operator]
    torch.testing.assert_close(other, pooled)


@quick
@given(seeds, bins, strides, st.integers(1, 4))
def test_moving_map_and_rois_by_whole_cells_changes_nothing(
    seed: int, size: int, stride: int, cells: int
) -> None:
    maps, rois = random_map(seed), random_rois(seed, stride, inside=True)
    moved = F.pad(maps, (cells, 2, 2 * cells, 1), value=-50.0)
    shifted = rois + torch.tensor([0, cells, 2 * cells, cells, 2 * cells]) * stride
    for layer in (roi_max_pool, by_gather):
        before = layer(maps, rois, size, 1 / stride)
        torch.testing.assert_close(layer(moved, shifted, size, 1 / stride), before)


@quick
@given(seeds, bins, strides)
def test_the_bins_of_max_pooling_cover_the_roi(seed: int, size: int, stride: int) -> None:
    maps, rois = random_map(seed) + 20, random_rois(seed, stride)  # above 0, the value outside
    whole = roi_max_pool(maps, rois, 1, 1 / stride)
    pooled = roi_max_pool(maps, rois, size, 1 / stride)
    torch.testing.assert_close(pooled.amax(dim=(2, 3), keepdim=True), whole)
    values = set(maps.flatten().tolist()) | {0.0}
    assert set(pooled.flatten().tolist()) <= values


@quick
@given(seeds, bins, strides)
def test_max_pooling_depends_on_the_order_of_values_only(seed: int, size: int, stride: int) -> None:
    maps, rois = random_map(seed), random_rois(seed, stride, inside=True)
    pooled = roi_max_pool(maps, rois, size, 1 / stride)
    torch.testing.assert_close(roi_max_pool(maps.exp(), rois, size, 1 / stride), pooled.exp())
    higher = roi_max_pool(maps + random_map(seed + 1).abs(), rois, size, 1 / stride)
    assert bool((higher >= pooled).all())


@quick
@given(seeds, bins, strides)
def test_each_bin_inside_the_map_sends_its_gradient_to_one_cell(
    seed: int, size: int, stride: int
) -> None:
    maps, rois = random_map(seed).requires_grad_(), random_rois(seed, stride)
    pooled = roi_max_pool(maps, rois, size, 1 / stride)
    (gradient,) = torch.autograd.grad(pooled.sum(), maps)
    full = roi_max_pool(torch.ones_like(maps), rois, size, 1 / stride)  # 1 inside, 0 outside
    assert gradient.sum() == full.sum()
    assert torch.equal(gradient, gradient.round())
    # Euler: pooling is homogeneous of degree one, so <gradient, map> is the sum of its values.
    torch.testing.assert_close((gradient * maps).sum(), pooled.sum())


@quick
@given(seeds, bins, strides, st.floats(-3, 3))
def test_aligned_pooling_is_linear(seed: int, size: int, stride: int, factor: float) -> None:
    a, b, rois = random_map(seed), random_map(seed + 1), random_rois(seed, stride)
    together = by_gather(a + factor * b, rois, size, 1 / stride)
    apart = by_gather(a, rois, size, 1 / stride) + factor * by_gather(b, rois, size, 1 / stride)
    torch.testing.assert_close(together, apart)


@quick
@given(seeds, bins, strides)
def test_aligned_pooling_of_a_slope_is_its_value_at_each_bins_centre(
    seed: int, size: int, stride: int
) -> None:
    rois = random_rois(seed, stride, inside=True)
    rows = torch.arange(ROWS, dtype=torch.float64)[:, None] + 0.5
    columns = torch.arange(COLUMNS, dtype=torch.float64) + 0.5
    slope = (3 * rows - 2 * columns + 5).expand(2, 1, ROWS, COLUMNS)
    places = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    x = rois[:, 1, None] + (rois[:, 3] - rois[:, 1])[:, None] * places
    y = rois[:, 2, None] + (rois[:, 4] - rois[:, 2])[:, None] * places
    centres = 3 * y[:, :, None] / stride - 2 * x[:, None, :] / stride + 5
    for layer in (by_gather, roi_align_pool):
        torch.testing.assert_close(layer(slope, rois, size, 1 / stride)[:, 0], centres)


@quick
@given(seeds, bins, strides)
def test_aligned_pooling_of_a_mirrored_map_is_mirrored(seed: int, size: int, stride: int) -> None:
    maps, rois = random_map(seed), random_rois(seed, stride)
    mirrored = rois.clone()
    mirrored[:, 1], mirrored[:, 3] = COLUMNS * stride - rois[:, 3], COLUMNS * stride - rois[:, 1]
    pooled = by_gather(maps, rois, size, 1 / stride)
    torch.testing.assert_close(by_gather(maps.flip(3), mirrored, size, 1 / stride), pooled.flip(3))


@quick
@given(seeds, st.sampled_from(["max", "align"]))
def test_a_bins_value_lies_between_the_maps_extremes(seed: int, kind: str) -> None:
    maps, rois = [random_map(seed), random_map(seed + 1)], random_rois(seed, 16)
    pooled = pool(maps, rois, (8, 16), 3, kind)
    assert pooled.max() <= max(m.max().item() for m in maps)
    assert pooled.min() >= min(m.min().item() for m in maps)
