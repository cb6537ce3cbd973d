"""The average of the weights: its values by hand, and what the model has inside and after `applied`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrcnn.averaging import WeightAverage


def test_the_first_steps_forget_the_start_and_later_ones_keep_the_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 8.0)
    average = WeightAverage(model, 0.25)
    nn.init.constant_(model.weight, 0.0)
    average.update(model, 0)  # keeps 1/10
    assert average.weights["weight"].item() == pytest.approx(0.8)
    average.update(model, 1)  # keeps 2/11
    assert average.weights["weight"].item() == pytest.approx(0.8 * 2 / 11)
    average.update(model, 1000)  # keeps .25, not 1001/1010
    assert average.weights["weight"].item() == pytest.approx(0.8 * 2 / 11 * 0.25)


def test_a_model_has_the_average_only_inside_the_block() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = WeightAverage(model, 0.9)
    assert set(average.weights) == {"0.weight", "1.weight", "1.bias"}
    with torch.no_grad():
        model[0].weight.add_(1)
        model[0].bias.add_(1)
        model[1].running_mean.add_(1)
    with average.applied(model):
        assert torch.equal(model[0].weight, before["0.weight"])
        assert torch.equal(model[0].bias, before["0.bias"] + 1)  # not trained, so not averaged
        assert torch.equal(model[1].running_mean, before["1.running_mean"] + 1)
    assert torch.equal(model[0].weight, before["0.weight"] + 1)


def test_weights_come_back_if_the_block_fails() -> None:
    model = nn.Linear(1, 1)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(7)
    with pytest.raises(RuntimeError), average.applied(model):
        raise RuntimeError
    assert model.weight.item() == 7
