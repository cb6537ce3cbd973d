"""Where the time of a computation goes, by torch's profiler: convolutions, products, suppression, copies."""

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
"""Words in the names of torch's operators; the first kind with one that occurs has it."""


def shares(work: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """The part of each kind, and of the rest, in the time that operators take on `device`; their sum is 1.

    On a GPU that is its kernels' time, on a CPU the threads' that call them.
    """
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as profiled:
        work()
        if gpu:
            torch.cuda.synchronize()
    spent: Counter[str] = Counter()
    for event in profiled.key_averages():
        # Of operators; a GPU's kernels are counted with the one that started them.
        if event.device_type.name == "CPU":
            own = event.self_device_time_total if gpu else event.self_cpu_time_total
            spent[kind_of(event.key)] += own
    total = sum(spent.values()) or 1
    return {kind: spent[kind] / total for kind in (*KINDS, "rest")}


def kind_of(operator: str) -> str:
    """Of an operator's name, as `aten::mkldnn_convolution`."""
    name = operator.lower()
    for kind, words in KINDS.items():
        if any(word in name for word in words):
            return kind
    return "rest"


def share_line(found: dict[str, float], kinds: Sequence[str] = (*KINDS, "rest")) -> str:
    """To print."""
    return ", ".join(f"{kind} {found[kind]:.0%}" for kind in kinds)
