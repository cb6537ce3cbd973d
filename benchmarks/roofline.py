"""Compute the floor of a computation: the minimum time of its convolutions and matrix products on this
machine.

The time of each is its floating-point operations at the measured peak, or its bytes at the measured
bandwidth: the longer of the two. Everything else (norms, activations, pooling, NMS, copies) counts as zero.
An algorithm with fewer multiplications than a plain convolution (Winograd's) can be faster than this floor.
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
    """The measured peak of the machine, with torch's current number of threads."""

    flops: float
    """Operations per second of a matrix product, in bfloat16 if the machine multiplies it, else in
    float32."""
    bandwidth: float
    """Bytes per second of a copy; read and written bytes both count."""


def measure_peak(device: torch.device) -> Peak:
    """Measure the peak: the best of several tries, each about 50 ms on a CPU core.

    torch's BLAS is not the fastest on every CPU: on AMD EPYC (Zen 5), oneDNN multiplies twice as fast.
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


class Floor(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types
    """A context that sums the floor of all torch operations within it."""

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
        if count is None:  # it may consist of other operations, like `linear`
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
    """Count the operations of a convolution's backward pass: the forward pass once per gradient, without the
    bias.

    torch counts the gradient of the weights as for a convolution without groups. For depthwise convolutions
    that is about a hundred times too much.
    """
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
