from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from fastrcnn.backbones.backbone import Backbone
from fastrcnn.backbones.convolution import ONEDNN, FastConv2d, FrozenNorm, use_fast_convolutions
from fastrcnn.config import BACKBONES, FastRCNNConfig
from fastrcnn.model import FastRCNN


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_is_a_plain_convolution_forward_and_backward(
    one_thread: None, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(24, 40, 1)
    net = nn.Sequential(plain)
    use_fast_convolutions(net)
    x = torch.rand(2, 24, 9, 13).contiguous(memory_format=memory_format).requires_grad_()
    expected = F.conv2d(x, plain.weight, plain.bias)
    torch.testing.assert_close(net(x), expected)
    wanted = torch.autograd.grad(expected.square().sum(), [x, plain.weight, plain.bias])
    inputs = [x, *net.parameters()]
    torch.testing.assert_close(torch.autograd.grad(net(x).square().sum(), inputs), wanted)


@pytest.mark.skipif(not ONEDNN, reason="no oneDNN here")
def test_one_thread_uses_onednn_where_torch_would_not(one_thread: None) -> None:
    x = torch.rand(1, 24, 30, 40).contiguous(memory_format=torch.channels_last)
    plain = nn.Conv2d(24, 40, 1)
    net = nn.Sequential(plain)
    use_fast_convolutions(net)
    assert "aten::mkldnn_convolution" in operators(net, x)
    assert "aten::mkldnn_convolution" not in operators(plain, x), (
        "torch changed: is it needed still?"
    )


def operators(net: nn.Module, x: torch.Tensor) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.inference_mode():
        net(x)
    return {event.key for event in seen.key_averages()}


def test_only_plain_1x1_convolutions_are_replaced() -> None:
    net = nn.Sequential(
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 1, stride=2),
        nn.Conv2d(8, 8, 1, groups=8),
        nn.Conv2d(8, 8, 1, padding=1),
    )
    weights = list(net.parameters())
    keys = list(net.state_dict())
    use_fast_convolutions(net)
    assert [type(layer) is FastConv2d for layer in net] == [True, False, False, False, False]
    assert list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), weights, strict=True))


def test_modules_that_are_built_later_get_the_same_random_numbers() -> None:
    torch.manual_seed(1)
    nn.Conv2d(3, 5, 1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    use_fast_convolutions(nn.Sequential(nn.Conv2d(3, 5, 1)))
    assert torch.equal(torch.rand(3), expected)


def test_backbone_pyramid_and_rpn_have_fast_convolutions() -> None:
    config = FastRCNNConfig.modern(2, backbone="mobilenet_v2", fc_dim=8)
    layers = dict(FastRCNN(config).named_modules())
    fast = {name: layer for name, layer in layers.items() if isinstance(layer, FastConv2d)}
    found = [name for name, layer in fast.items() if layer.kernel_size == (1, 1)]
    assert any(name.startswith("backbone.fpn") for name in found)
    assert sum(name.startswith("backbone.body") for name in found) == 33
    assert sum(len(layer.norm) for layer in fast.values()) == 51, "each has its own in the body"


def backbones_with_norms() -> list[str]:
    with torch.device("meta"):
        networks = [Backbone(name) for name in BACKBONES]
    return [n.name for n in networks if any(isinstance(m, FrozenNorm) for m in n.modules())]


@pytest.mark.parametrize("backbone", backbones_with_norms())
def test_folding_frozen_norms_changes_neither_loss_nor_gradients(
    one_thread: None, backbone: str
) -> None:
    torch.manual_seed(0)
    built = FastRCNN(FastRCNNConfig.modern(2, backbone=backbone, fc_dim=8, frozen_stages=0))
    net, plain = built.backbone.body.double(), Backbone(backbone).body.double()
    for norm in (layer for layer in plain.modules() if isinstance(layer, FrozenNorm)):
        for number in (norm.running_var, norm.weight):
            number.uniform_(0.5, 2)
        for number in (norm.running_mean, norm.bias):
            number.normal_()
    assert list(net.state_dict()) == list(plain.state_dict())
    net.load_state_dict(plain.state_dict())
    norms = [layer for layer in net.modules() if isinstance(layer, FrozenNorm)]
    assert norms
    assert all(norm.folded for norm in norms)
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    found = [sum(level.square().mean() for level in body(x).values()) for body in (net, plain)]
    torch.testing.assert_close(found[0], found[1])
    for loss in found:
        loss.backward()
    wanted = dict(plain.named_parameters())
    assert {name for name, _ in net.named_parameters()} == set(wanted)
    for name, weight in net.named_parameters():
        assert weight.grad is not None
        expected = wanted[name].grad
        assert expected is not None
        assert (weight.grad - expected).abs().max() <= 1e-9 * expected.abs().max(), name


def test_a_copied_model_has_copied_norms() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), FrozenNorm(4))
    use_fast_convolutions(net)
    own = copy.deepcopy(net)
    own[1].bias.fill_(5)
    x = torch.rand(1, 3, 6, 6)
    torch.testing.assert_close(own(x), net(x) + 5)


def test_a_norm_that_is_trained_is_not_folded() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    use_fast_convolutions(net)
    assert type(net[0]) is nn.Conv2d
