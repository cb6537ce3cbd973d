"""The pretended GPU computes as a CPU does, and counts what makes a host wait for CUDA."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from tests.pretended_gpu import GPU, on_gpu, pretended_gpu


@pytest.mark.parametrize(
    ("work", "waits"),
    [
        (lambda x: x.cpu(), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: bool(x[0, 0] > 0), 1),
        (lambda x: int(x.sum()), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x[:, 0] > 0], 1),
        (lambda x: x[[1, 0]], 1),
        (lambda x: x.new_tensor([1.0]), 1),
        (lambda x: torch.tensor([1.0], device=x.device) * x, 1),
        (lambda x: torch.ones(4).to(x.device) * x, 1),
        (lambda x: torch.ones(4).to(x), 1),
        (lambda x: nms(x, x[:, 0], 0.5), 1),
        (lambda x: x.repeat_interleave(x[:, 0].long(), dim=0), 1),
        (lambda x: torch.ones(4).to(x.device, non_blocking=True) * x, 0),
        (lambda x: torch.nonzero_static(x[:, 0] > 0, size=2), 0),
        (lambda x: x[torch.arange(2, device=x.device)], 0),
        (lambda x: x.clamp(0, 2.0).argsort(dim=0).flip(-1), 0),
        (lambda x: x.masked_fill(x > 1, 0.0), 0),
        (lambda x: torch.zeros(3, 4, device=x.device) + x[:1], 0),
    ],
)
def test_what_makes_the_host_wait_is_counted(work: Callable[[Tensor], object], waits: int) -> None:
    with pretended_gpu() as gpu:
        work(on_gpu(torch.tensor([[1.0, 0, 3, 4], [2.0, 1, 5, 6]])))
    assert (gpu.num_waits, sum(gpu.mixes.values())) == (waits, 0)


def test_an_operation_on_both_devices_is_a_mix_and_a_number_is_none() -> None:
    with pretended_gpu() as gpu:
        values = on_gpu(torch.ones(3))
        assert values.device == GPU
        values = values * torch.tensor(2.0)
        assert not gpu.mixes
        values = values + torch.ones(3)
        assert sum(gpu.mixes.values()) == 1
        assert values.tolist() == [3.0, 3.0, 3.0]
    assert [line.partition(": ")[0] for line in gpu.waits] == ["tolist"]
    assert "tests/test_pretended_gpu.py:" in next(iter(gpu.waits))


def test_a_training_step_gives_the_weights_of_a_cpu_without_a_wait() -> None:
    def trained(moved: Callable[[object], object]) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        images = torch.rand(2, 3, 4, 4)
        moved(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        net(moved(images)).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.01)
        optimizer.step()
        return net

    expected = trained(lambda thing: thing)
    with pretended_gpu() as gpu:
        found = trained(on_gpu)
    assert (gpu.num_waits, sum(gpu.mixes.values())) == (0, 0)
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.values, other.detach())
