"""RoI max pooling compared with plain loops in float64, and its deterministic gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_pool

from fastrcnn.config import FastRCNNConfig
from fastrcnn.loss import Target, training_loss
from fastrcnn.model import FastRCNN
from fastrcnn.pooling import pool, roi_max_pool


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def half_away_from_zero(x: float) -> int:
    return math.floor(x + 0.5) if x >= 0 else -math.floor(-x + 0.5)


def by_hand(
    features: Tensor,
    rois: Tensor,
    bins: int,
    scale: float,
    upstream: Tensor,
    *,
    drop_malformed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Pool like roi_pooling_layer.cpp (forward) and .cu (backward), one cell at a time.

    Args:
        upstream: (R, C, P, P) gradient of the pooled values.
        drop_malformed: do as Caffe's backward pass, which reads only cells between start and end of an RoI.
    """
    x = features.detach().numpy()
    gradient = np.zeros_like(x)
    pooled = np.zeros(upstream.shape)
    height, width = x.shape[2:]
    for r, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (half_away_from_zero(c * scale) for c in corners)
        row_bin = max(y2 - y1 + 1, 1) / bins
        column_bin = max(x2 - x1 + 1, 1) / bins
        for c in range(x.shape[1]):
            for i in range(bins):
                rows = range(
                    max(y1 + math.floor(i * row_bin), 0),
                    min(y1 + math.ceil((i + 1) * row_bin), height),
                )
                for j in range(bins):
                    columns = range(
                        max(x1 + math.floor(j * column_bin), 0),
                        min(x1 + math.ceil((j + 1) * column_bin), width),
                    )
                    best, at = -math.inf, None
                    for row in rows:
                        for column in columns:
                            if x[int(image), c, row, column] > best:
                                best, at = x[int(image), c, row, column], (row, column)
                    if at is None:
                        continue
                    pooled[r, c, i, j] = best
                    if not (drop_malformed and (x2 < x1 or y2 < y1)):
                        gradient[int(image), c, at[0], at[1]] += float(upstream[r, c, i, j])
    return torch.from_numpy(pooled), torch.from_numpy(gradient)


def odd_rois(scale: float) -> Tensor:
    """Make RoIs on a 9 x 11 map: inside, over each edge, outside, on halves, without area, reversed."""
    boxes = [
        *[(0, 0, 10, 8), (2.5, 3.5, 7.5, 6.5), (1, 1, 1, 1), (3.2, 2.4, 9.9, 5.1), (0, 0, 30, 30)],
        *[(-4, -3, 3, 2), (8, 6, 15, 12), (-2.5, -0.5, 4.5, 8.5), (20, 2, 25, 5), (-9, -9, -6, -7)],
        *[(6, 5, 2, 3), (6, 2, 3, 7), (10.49, 8.49, 10.5, 8.5), (0.5, 0.5, 0.5, 0.5), (4, 0, 4, 8)],
        (11, 0, 0, 8),
    ]
    rois = torch.tensor([(i % 2, *box) for i, box in enumerate(boxes)], dtype=torch.float64)
    rois[:, 1:] /= scale
    return rois


def gradient_of(pooled: Tensor, features: Tensor, upstream: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad((pooled * upstream).sum(), features)
    return gradient


def maps(*, ties: bool) -> Tensor:
    """Make maps of two images. With ties, every cell has one of three values, so most maxima are equal."""
    generator = torch.Generator().manual_seed(int(ties))
    if ties:
        values = torch.randint(-1, 2, (2, 2, 9, 11), generator=generator).double()
    else:
        values = torch.randperm(2 * 2 * 99, generator=generator).double().reshape(2, 2, 9, 11) - 200
    return values.requires_grad_()


def whole_numbers(shape: tuple[int, ...]) -> Tensor:
    """Make upstream gradients whose sums are exact in every order."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(-8, 9, shape, generator=generator).double()


CASES = [(1, 1.0, False), (2, 1 / 16, True), (6, 1 / 16, False), (7, 1.0, True), (7, 1 / 16, False)]


@pytest.mark.parametrize(("bins", "scale", "ties"), CASES)
@pytest.mark.parametrize("ordered", [False, True])
def test_values_and_gradients_equal_those_of_plain_loops(
    bins: int, scale: float, ties: bool, ordered: bool, request: pytest.FixtureRequest
) -> None:
    if ordered:
        request.getfixturevalue("deterministic")
    features, rois = maps(ties=ties), odd_rois(scale)
    upstream = whole_numbers((len(rois), 2, bins, bins))
    pooled, gradient = by_hand(features, rois, bins, scale, upstream)
    ours = roi_max_pool(features, rois, bins, scale)
    assert torch.equal(ours, pooled)
    assert torch.equal(gradient_of(ours, features, upstream), gradient)
    kernels = roi_pool(features, rois, bins, scale)
    assert torch.equal(kernels, pooled)
    assert ("Ordered" in type(ours.grad_fn).__name__) == ordered


def test_caffe_differs_only_in_rois_that_end_before_they_start() -> None:
    features, rois = maps(ties=False), odd_rois(1.0)
    malformed = (rois[:, 3] < rois[:, 1]) | (rois[:, 4] < rois[:, 2])
    assert malformed.sum() == 3
    for chosen, same in ((rois[~malformed], True), (rois[malformed], False)):
        upstream = whole_numbers((len(chosen), 2, 3, 3)) + 20
        caffes = by_hand(features, chosen, 3, 1.0, upstream, drop_malformed=True)
        ours = roi_max_pool(features, chosen, 3, 1.0)
        assert torch.equal(ours, caffes[0])
        assert torch.equal(gradient_of(ours, features, upstream), caffes[1]) == same


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_two_deterministic_runs_agree_in_every_bit_and_with_the_kernel(
    deterministic: None, device: str
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 16, 20, 24, generator=generator).to(device).requires_grad_()
    corners = torch.rand(400, 2, 2, generator=generator).sort(dim=1).values * 330
    rois = torch.cat([torch.arange(400.0)[:, None] % 2, corners.flatten(1)], dim=1).to(device)
    upstream = torch.randn(400, 16, 7, 7, generator=generator).to(device)
    runs = []
    for _ in range(3):
        pooled = roi_max_pool(features, rois, 7, 1 / 16)
        runs.append(gradient_of(pooled, features, upstream))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    torch.use_deterministic_algorithms(False)
    kernels = roi_max_pool(features, rois, 7, 1 / 16)
    assert torch.equal(kernels, pooled)
    torch.testing.assert_close(runs[0], gradient_of(kernels, features, upstream))


def test_the_ordered_gradient_passes_through_every_level_of_a_pyramid(deterministic: None) -> None:
    levels = [torch.randn(1, 3, 64 >> n, 64 >> n).requires_grad_() for n in range(3)]
    rois = torch.tensor([[0.0, 8, 8, 60, 60], [0.0, 0, 0, 120, 120], [0.0, 4, 4, 250, 250]])
    pooled = pool(levels, rois, (4, 8, 16), 2, "max")
    ours = torch.autograd.grad(pooled.square().sum(), levels)
    torch.use_deterministic_algorithms(False)
    kernels = torch.autograd.grad(pool(levels, rois, (4, 8, 16), 2, "max").square().sum(), levels)
    for mine, other in zip(ours, kernels, strict=True):
        assert torch.equal(mine, other)


def test_no_rois_give_a_zero_gradient(deterministic: None) -> None:
    features = torch.randn(1, 4, 6, 6, requires_grad=True)
    pooled = roi_max_pool(features, torch.zeros(0, 5), 7, 1 / 8)
    assert pooled.shape == (0, 4, 7, 7)
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() == 0


def gradients_of_a_step(model: FastRCNN) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = [
        torch.randint(0, 256, (96, 128, 3), dtype=torch.uint8, generator=generator)
        for _ in range(2)
    ]
    corners = torch.rand(2, 300, 2, generator=generator) * 60
    targets = [
        Target(
            torch.cat([c, c + 12 + torch.rand(300, 2, generator=generator) * 40], dim=1),
            torch.tensor([[10.0, 10, 50, 50], [40.0, 20, 90, 80]]),
            torch.tensor([1, 2]),
        )
        for c in corners
    ]
    model.zero_grad()
    out = training_loss(model, images, targets, seeds=[5, 6])
    out.loss.total.backward()
    assert out.num_fg > 0
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("backbone", "pooling"),
    [("tiny", "max"), ("vgg_m", "max"), ("tiny", "align"), ("mobilenet_v2", "max")],
)
def test_a_training_step_can_be_repeated_bit_for_bit(
    deterministic: None,
    monkeypatch: pytest.MonkeyPatch,
    backbone: str,
    pooling: str,
    device: str,
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or torch refuses matrix products
    torch.manual_seed(0)
    config = FastRCNNConfig.paper(
        2, backbone=backbone, pooling=pooling, scale=96, fc_dim=32, dropout=0.0, frozen_stages=1
    )
    model = FastRCNN(config).to(device).train()
    first = gradients_of_a_step(model)
    again = gradients_of_a_step(model)
    assert len(first) > 8
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(bool(torch.isfinite(a).all()) for a in first)
