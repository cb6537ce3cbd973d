"""Where bfloat16 is worth its rounding: half the bytes, and on the right hardware twice the products."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions of its own for bfloat16 products, summed in float32.

    GPUs since Ampere (compute capability 8.0). x86 CPUs with AVX512-BF16 (AMD Zen 4, Intel Cooper Lake) or
    AMX: measured on AMD EPYC (Zen 5), a convolution in oneDNN takes half the time of float32, forward and
    backward. Elsewhere torch emulates them, which costs more than it saves. A torch that cannot say (before
    `torch.cpu.get_capabilities`) is taken for one on a CPU without.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
