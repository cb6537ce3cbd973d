"""Measure which kinds of operators take the time, with torch's profiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "convolutions": ("conv",),
    "products": ("linear", "mm", "matmul"),
    "pooling": ("embedding_bag", "roi_align", "roi_pool"),
    "suppression": ("nms",),
    "copies": ("copy", "to_mkldnn", "to_dense", "memcpy", "pin_memory", "clone"),
}
"""Kind -> parts of operator names. An operator belongs to the first kind with a match."""


def shares(work: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Give the share of each kind, and of the rest, in the time of all operators. The shares add up to 1.

    On a GPU this is the time of the kernels, on a CPU the time of the threads that call the operators.
    """
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as profiled:
        work()
        if gpu:
            torch.cuda.synchronize()
    spent: Counter[str] = Counter()
    for event in profiled.key_averages():
        # Count operators only: their time includes the GPU kernels that they start.
        if event.device_type.name == "CPU":
            time = event.self_device_time_total if gpu else event.self_cpu_time_total
            spent[kind_of(event.key)] += time
    total = sum(spent.values()) or 1
    return {kind: spent[kind] / total for kind in (*KINDS, "rest")}


def kind_of(operator: str) -> str:
    """Give the kind of an operator by its name, for example `aten::mkldnn_convolution`."""
    name = operator.lower()
    for kind, words in KINDS.items():
        if any(word in name for word in words):
            return kind
    return "rest"


def share_line(by_kind: dict[str, float], kinds: Sequence[str] = (*KINDS, "rest")) -> str:
    """Write the shares as one line."""
    return ", ".join(f"{kind} {by_kind[kind]:.0%}" for kind in kinds)
