from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from fastrcnn.config import FastRCNNConfig
from fastrcnn.model import FastRCNN
from fastrcnn.pointwise import ONEDNN, PointwiseConv2d, use_pointwise


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
    use_pointwise(net)
    x = torch.rand(2, 24, 9, 13).contiguous(memory_format=memory_format).requires_grad_()
    expected = F.conv2d(x, plain.weight, plain.bias)
    torch.testing.assert_close(net(x), expected)
    wanted = torch.autograd.grad(expected.square().sum(), [x, plain.weight, plain.bias])
    inputs = [x, *net.parameters()]
    torch.testing.assert_close(torch.autograd.grad(net(x).square().sum(), inputs), wanted)


@pytest.mark.skipif(not ONEDNN, reason="no oneDNN here")
def test_one_thread_goes_to_onednn_which_torch_alone_would_not_do(one_thread: None) -> None:
    x = torch.rand(1, 24, 30, 40).contiguous(memory_format=torch.channels_last)
    plain = nn.Conv2d(24, 40, 1)
    net = nn.Sequential(plain)
    use_pointwise(net)
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
    use_pointwise(net)
    assert [type(layer) is PointwiseConv2d for layer in net] == [True, False, False, False, False]
    assert list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), weights, strict=True))


def test_the_random_numbers_of_what_comes_next_are_as_without() -> None:
    torch.manual_seed(1)
    nn.Conv2d(3, 5, 1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    use_pointwise(nn.Sequential(nn.Conv2d(3, 5, 1)))
    assert torch.equal(torch.rand(3), expected)


def test_backbone_pyramid_and_rpn_have_them() -> None:
    config = FastRCNNConfig.modern(2, backbone="mobilenet_v2", fc_dim=8)
    layers = dict(FastRCNN(config).named_modules())
    found = [name for name, layer in layers.items() if isinstance(layer, PointwiseConv2d)]
    assert any(name.startswith("backbone.fpn") for name in found)
    assert sum(name.startswith("backbone.body") for name in found) == 33
