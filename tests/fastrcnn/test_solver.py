"""Learning rates, decay and momentum, compared with the reference's prototxt and with Caffe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrcnn.config import FastRCNNConfig, SolverConfig
from fastrcnn.model import FastRCNN
from fastrcnn.solver import build_optimizer, learning_rate, set_learning_rate


def test_the_papers_rate_drops_at_iteration_30000() -> None:
    config = SolverConfig.paper()
    assert learning_rate(config, 29_999, 40_000) == pytest.approx(1e-3)
    assert learning_rate(config, 30_000, 40_000) == pytest.approx(1e-4)


def test_a_warm_up_rises_and_a_cosine_falls() -> None:
    config = SolverConfig.modern(warmup=10)
    rates = [learning_rate(config, i, 1000) for i in range(1000)]
    assert rates[0] < 1e-4
    assert rates.index(max(rates)) == 10
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[-1] < 1e-6


def test_biases_learn_twice_as_fast_and_do_not_decay() -> None:
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, SolverConfig.paper())
    set_learning_rate(optimizer, 1e-3, caffe_momentum=True)
    (weight, bias) = optimizer.param_groups
    assert (weight["lr"], weight["weight_decay"]) == (1e-3, 0.0005)
    assert (bias["lr"], bias["weight_decay"]) == (2e-3, 0.0)


def steps_after(*, caffe_momentum: bool) -> list[float]:
    """Compute step sizes for a constant gradient of 1: 200 steps at 1e-3, then at a tenth of the rate."""
    parameter = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    model = nn.ParameterList([parameter])
    config = SolverConfig.paper(weight_decay=0.0)
    optimizer = build_optimizer(model, config)
    sizes = []
    for step in range(201):
        set_learning_rate(optimizer, 1e-3 if step < 200 else 1e-4, caffe_momentum=caffe_momentum)
        before = parameter.item()
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        sizes.append(before - parameter.item())
    return sizes


def test_caffes_velocity_keeps_the_learning_rate_of_each_gradient() -> None:
    caffe, torchs = steps_after(caffe_momentum=True), steps_after(caffe_momentum=False)
    assert caffe[199] == pytest.approx(1e-2, rel=1e-6)
    assert caffe[200] == pytest.approx(9.1e-3, rel=1e-6)  # .9 * 1e-2 + 1e-4
    assert torchs[200] == pytest.approx(1e-3, rel=1e-6)


def test_frozen_stages_are_bit_identical_after_training() -> None:
    config = FastRCNNConfig.paper(2, backbone="tiny", fc_dim=16)
    model = FastRCNN(config)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = build_optimizer(model, SolverConfig.paper(learning_rate=0.1))
    logits, deltas = model(torch.randn(1, 3, 64, 64), torch.tensor([[0.0, 0, 0, 60, 60]]))
    (logits.square().sum() + deltas.square().sum() + logits.sum()).backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    frozen = {
        k for k in before if k.split(".")[2:3] in (["conv1"], ["norm1"], ["conv2"], ["norm2"])
    }
    assert frozen
    assert not changed & frozen
    assert "backbone.body.conv3.weight" in changed
    assert "head.cls_score.weight" in changed


@pytest.mark.parametrize("changes", [{"iterations": 5, "epochs": 1.0}, {"iterations": None}])
def test_exactly_one_of_iterations_and_epochs_is_needed(changes: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match="iterations=.*, epochs=.*: expected a number for exactly one of them"
    ):
        SolverConfig.paper(**changes)


def test_epochs_become_iterations() -> None:
    assert SolverConfig.modern(batch_size=4).num_iterations(100) == 300
