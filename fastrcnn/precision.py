"""Which devices compute in bfloat16: it halves the bytes, and on some hardware it doubles the speed."""

from __future__ import annotations

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
