"""RoIAlign as a gather, compared with torchvision's kernel: values, gradients, edges, levels and time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from fastrcnn.align import roi_align_levels


def random_rois(count: int, *, side: float, seed: int = 0) -> Tensor:
    """Make RoIs inside the map, over its edge, outside it, and without area."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * side * 1.4 - side * 0.2
    sizes = torch.rand(count, 2, generator=generator) ** 2 * side
    sizes[::7] = 0
    batch = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat([batch, corners, corners + sizes], dim=1)


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


def by_kernel(features: Tensor, rois: Tensor, stride: int, bins: int = 7) -> Tensor:
    pooled: Tensor = roi_align(features, rois, bins, 1 / stride, 2, True)
    return pooled


@pytest.mark.parametrize("stride", [1, 8, 16])
@pytest.mark.parametrize("bins", [1, 6, 7])
def test_values_and_gradients_equal_those_of_the_kernel(stride: int, bins: int) -> None:
    torch.manual_seed(1)
    features = torch.randn(2, 5, 13, 17, dtype=torch.float64, requires_grad=True)
    rois = random_rois(60, side=15.0 * stride).double()
    ours = roi_align_levels([features], rois, zeros(60), [stride], bins)
    theirs = by_kernel(features, rois, stride, bins)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    weights = torch.randn_like(theirs)
    (mine,) = torch.autograd.grad((ours * weights).sum(), features)
    (kernels,) = torch.autograd.grad((theirs * weights).sum(), features)
    torch.testing.assert_close(mine, kernels, rtol=0, atol=1e-5)


def test_gradients_equal_finite_differences() -> None:
    features = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 3.0, 2.0, 30.0, 41.0], [0, -9.0, 4.0, 11.0, 8.0]], dtype=torch.float64)

    def pooled(maps: Tensor) -> Tensor:
        return roi_align_levels([maps], rois, zeros(2), [8], 3)

    assert torch.autograd.gradcheck(pooled, (features,))


def test_each_roi_reads_its_level_and_image() -> None:
    levels = [torch.full((2, 3, 8 >> n, 12 >> n), 10.0 * n) for n in range(3)]
    for n, level in enumerate(levels):
        level[1] += 1
        assert level[0, 0, 0, 0] == 10 * n
    rois = torch.tensor([[image, 8.0, 8.0, 24.0, 24.0] for image in (0, 1) for _ in range(3)])
    pooled = roi_align_levels(levels, rois, torch.tensor([0, 1, 2] * 2), [4, 8, 16], 2)
    assert pooled.shape == (6, 3, 2, 2)
    assert pooled.mean(dim=(1, 2, 3)).tolist() == [0, 10, 20, 1, 11, 21]


def test_no_rois_give_an_empty_map_and_a_zero_gradient() -> None:
    features = torch.randn(1, 4, 6, 6, requires_grad=True)
    pooled = roi_align_levels([features], torch.zeros(0, 5), zeros(0), [8], 7)
    assert pooled.shape == (0, 4, 7, 7)
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() == 0


def test_a_training_step_is_faster_than_with_the_kernel() -> None:
    features = torch.randn(2, 128, 60, 80).to(memory_format=torch.channels_last).requires_grad_()
    rois = random_rois(256, side=500.0)
    gradient = torch.randn(256, 128, 7, 7)

    def seconds(pool: Callable[[], Tensor]) -> float:
        times = []
        for _ in range(4):
            started = time.thread_time()  # this thread's, so neighbours on the machine do not count
            pool().backward(gradient)
            times.append(time.thread_time() - started)
        return min(times)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours = seconds(lambda: roi_align_levels([features], rois, zeros(256), [8], 7))
        kernels = seconds(lambda: by_kernel(features, rois, 8))
    finally:
        torch.set_num_threads(threads)
    assert ours < kernels / 2, f"{ours * 1e3:.1f} ms, torchvision's kernel {kernels * 1e3:.1f} ms"
