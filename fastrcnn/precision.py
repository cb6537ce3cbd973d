"""Which devices compute in bfloat16: it halves the bytes, and on some hardware it doubles the speed.

And what float32 means on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16 products that are summed in float32.

    These devices have them: GPUs since Ampere (compute capability 8.0), and x86 CPUs with AVX512-BF16 (AMD
    Zen 4, Intel Cooper Lake) or AMX. Measured on AMD EPYC (Zen 5), a convolution in oneDNN takes half the
    time of float32, forward and backward. On other devices torch emulates the products, which costs more than
    it saves.

    Older torch versions have no `torch.cpu.get_capabilities`. With them the answer for a CPU is False.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def full_float32() -> Iterator[None]:
    """Within it, a GPU computes float32 convolutions and products in float32, and not in TF32.

    TF32 has 10 bits of mantissa instead of 23. torch allows it for convolutions unless it is told otherwise.
    The settings are those of the process; the ones from before come back at the end.
    """
    backends: Any = torch.backends  # torch's stubs lack these settings
    settings = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [one.fp32_precision for one in settings]
    try:
        for one in settings:
            one.fp32_precision = "ieee"
        yield
    finally:
        for one, value in zip(settings, before, strict=True):
            one.fp32_precision = value
