"""The floor under a computation: the time its convolutions and matrix products must take on this machine.

Each costs its floating-point operations at the measured peak, or its bytes at the measured bandwidth,
whichever takes longer; the rest (norms, activations, pooling, suppression, copies) is counted as free. An
algorithm that needs fewer multiplications than a plain convolution (Winograd's) could pass below it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fastrcnn.backbones.convolution import ONEDNN
from fastrcnn.precision import multiplies_bfloat16

_SIDE = 2048
_BYTES = 256 * 2**20
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Peak:
    """What the machine does at the best, with torch's threads as they are."""

    flops: float
    """A second, of a matrix product: in bfloat16 where the machine multiplies it, else in float32."""
    bandwidth: float
    """Bytes a second, of a copy: those read and those written."""


def measure_peak(device: torch.device) -> Peak:
    """Of several tries the best, each of some 50 ms on a CPU core.

    torch's BLAS is not the best everywhere: on AMD EPYC (Zen 5) oneDNN multiplies twice as fast.
    """
    dtype = torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    square = torch.rand(_SIDE, _SIDE, device=device, dtype=dtype)
    products = [lambda: square @ square]
    if device.type == "cpu" and ONEDNN:
        packed = square.to_mkldnn()
        products.append(lambda: F.linear(packed, packed))
    source = torch.empty(_BYTES, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return Peak(
        flops=2 * _SIDE**3 / min(_least_seconds(product, device) for product in products),
        bandwidth=2 * _BYTES / _least_seconds(lambda: target.copy_(source), device),
    )


def _least_seconds(work: Callable[[], Any], device: torch.device) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


class Floor(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Sums the floor of everything that torch does inside it."""

    def __init__(self, peak: Peak) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = peak
        self.seconds = 0.0
        self.flops = 0.0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        count = flop_registry.get(func._overloadpacket)
        if count is None:  # maybe made of others, as `linear` is
            with self:
                made = func.decompose(*args, **keywords)
            return func(*args, **keywords) if made is NotImplemented else made
        result = func(*args, **keywords)
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            flops = _convolution_backward(*args)
        else:
            flops = float(count(*args, **keywords, out_val=result))
        moved = sum(t.numel() * t.element_size() for t in _tensors((args, keywords, result)))
        self.flops += flops
        self.seconds += max(flops / self.peak.flops, moved / self.peak.bandwidth)
        return result


def _convolution_backward(*args: Any) -> float:
    """Of each gradient asked for what the forward pass costs, but of a bias: torch's own count takes the
    weights' for that of a convolution without groups, for depthwise ones some hundred times too much."""
    grad_output, _, weight, *_, transposed, _, _, wanted = args
    if transposed:
        raise NotImplementedError("transposed convolutions are not counted")
    positions = int(grad_output.numel()) // int(grad_output.shape[1])
    return 2.0 * positions * int(weight.numel()) * int(sum(wanted[:2]))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
