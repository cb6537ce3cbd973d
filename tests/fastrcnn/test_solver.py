"""Learning rates, decay and momentum, compared with the reference's prototxt and with Caffe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fastrcnn.backbones import backbone_spec
from fastrcnn.config import BACKBONES, FastRCNNConfig, SolverConfig
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


def test_adamw_has_its_numbers_in_both_presets() -> None:
    paper, modern = SolverConfig.paper(optimizer="adamw"), SolverConfig.modern(optimizer="adamw")
    assert paper.learning_rate == modern.rate_for(2) == pytest.approx(2e-4)
    assert modern.rate_for(8) == pytest.approx(4e-4)  # the square root of four times the images
    assert SolverConfig.modern().rate_for(2) == pytest.approx(0.0025)
    assert (modern.weight_decay, modern.bias_rate, modern.schedule) == (0.05, 1.0, "cosine")
    assert not paper.caffe_momentum


def test_adamw_takes_the_steps_of_its_paper() -> None:
    """Algorithm 2 of Loshchilov and Hutter 2019, by hand, for gradients 1 and -3."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 2.0)
    config = SolverConfig.paper(optimizer="adamw", betas=(0.8, 0.9), weight_decay=0.5)
    optimizer = build_optimizer(model, config)
    weight, bias, m, v = 2.0, 2.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, -3.0), start=1):
        rate = 0.1 / step
        set_learning_rate(optimizer, rate, caffe_momentum=False)
        model.weight.grad = torch.full_like(model.weight, gradient)
        model.bias.grad = torch.full_like(model.bias, gradient)
        optimizer.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        update = m / (1 - 0.8**step) / ((v / (1 - 0.9**step)) ** 0.5 + 1e-8)
        weight = weight - rate * 0.5 * weight - rate * update
        bias = bias - rate * update  # without decay
        assert model.weight.item() == pytest.approx(weight, rel=1e-6)
        assert model.bias.item() == pytest.approx(bias, rel=1e-6)


def test_scales_and_biases_of_any_shape_do_not_decay() -> None:
    model = nn.Module()
    model.layer_scale = nn.Parameter(torch.ones(4, 1, 1))  # ConvNeXt
    model.relative_position_bias_table = nn.Parameter(torch.ones(9, 2))  # Swin
    model.conv = nn.Conv2d(4, 4, 1, groups=4)
    model.norm = nn.LayerNorm(4)
    optimizer = build_optimizer(model, SolverConfig.paper(optimizer="adamw"))
    weights, others = optimizer.param_groups
    assert [p.shape for p in weights["params"]] == [(4, 1, 1, 1)]
    assert (weights["weight_decay"], others["weight_decay"]) == (0.05, 0)
    assert len(others["params"]) == 5


def test_each_stage_learns_at_its_share_of_the_rate() -> None:
    model = FastRCNN(FastRCNNConfig.paper(2, backbone="tiny", fc_dim=16, frozen_stages=0))
    config = SolverConfig.paper(layer_decay=0.5, learning_rate=1.0)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 1.0, caffe_momentum=False)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: rates[id(p)] for name, p in model.named_parameters()}
    stages = backbone_spec("tiny").stages
    assert stages[0] == "conv1"
    assert stages[-1] == "conv5"
    assert names["head.fc6.weight"] == 1
    assert names["head.fc6.bias"] == 2  # as everywhere with the paper's numbers
    assert names["backbone.body.conv5.weight"] == 0.5
    assert names["backbone.body.conv1.weight"] == 0.5**5
    assert len(rates) == len(names)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_stage_of_every_backbone_has_a_rate(name: str) -> None:
    with torch.device("meta"):
        model = FastRCNN(FastRCNNConfig.modern(2, backbone=name, fc_dim=8, frozen_stages=0))
    optimizer = build_optimizer(model, SolverConfig.modern(optimizer="adamw", layer_decay=0.5))
    shares = {group["rate"] for group in optimizer.param_groups if group["params"]}
    stages = len(backbone_spec(name).stages)
    assert shares == {0.5**depth for depth in range(stages + 1)}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optimizer": "adamw", "momentum": 0.8}, "momentum=0.8, optimizer='adamw'"),
        ({"optimizer": "adamw", "caffe_momentum": True}, "caffe_momentum=True, optimizer='adamw'"),
        ({"betas": (0.5, 0.9)}, "betas=.*, optimizer='sgd': expected optimizer=adamw"),
        ({"optimizer": "adam"}, "optimizer='adam': expected sgd or adamw"),
        ({"ema_decay": 1.0}, "ema_decay=1.0: expected"),
        ({"layer_decay": 0.0}, "layer_decay=0.0: expected"),
        ({"patience": 0}, "patience=0: expected"),
    ],
)
def test_numbers_that_have_no_use_or_sense_are_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        SolverConfig.modern(**changes)


@pytest.mark.parametrize("changes", [{"iterations": 5, "epochs": 1.0}, {"iterations": None}])
def test_exactly_one_of_iterations_and_epochs_is_needed(changes: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match="iterations=.*, epochs=.*: expected a number for exactly one of them"
    ):
        SolverConfig.paper(**changes)


def test_epochs_become_iterations() -> None:
    assert SolverConfig.modern(batch_size=4).num_iterations(100) == 300
