"""A batch that does not fit the GPU is halved, wherever the memory is lacking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fastrcnn.detection import Detections
from fastrcnn.halving import detect_halving


class SmallGpu:
    """A network on a GPU with memory for `room` images; an image with 99 rows never fits."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.calls: list[int] = []

    def __call__(self, pixels: Sequence[Any], proposals: Sequence[Any]) -> list[Detections]:
        self.calls.append(len(pixels))
        if len(pixels) > self.room or any(len(p) == 99 for p in pixels):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")
        empty = torch.zeros(0)
        return [Detections(empty, empty, torch.tensor([float(len(p))])) for p in pixels]


def test_a_batch_too_large_for_the_gpu_is_halved() -> None:
    gpu = SmallGpu(room=2)
    pixels = [np.zeros((n, 1, 3), np.uint8) for n in range(1, 6)]
    found = detect_halving(gpu, pixels, [np.zeros((0, 4), np.float32)] * 5)
    assert [o.scores.item() for o in found if not isinstance(o, str)] == [1, 2, 3, 4, 5]
    assert gpu.calls == [5, 2, 3, 1, 2]


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_too_little_memory_anywhere_halves_a_batch(error: RuntimeError) -> None:
    def network(pixels: Sequence[Any], proposals: Sequence[Any] | None) -> list[int]:
        if len(pixels) > 1:
            raise error
        return [len(pixels[0])]

    pixels = [np.zeros((n, 1, 3), np.uint8) for n in (1, 2, 3)]
    assert detect_halving(network, pixels, None) == [1, 2, 3]


def test_a_broken_gpu_halves_nothing() -> None:
    calls: list[int] = []

    def network(pixels: Sequence[Any], proposals: Sequence[Any] | None) -> list[int]:
        calls.append(len(pixels))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        detect_halving(network, [np.zeros((1, 1, 3), np.uint8)] * 4, None)
    assert calls == [4]


def test_halves_of_a_batch_without_proposals_have_none_either() -> None:
    calls: list[Sequence[Any] | None] = []

    def run(pixels: Sequence[Any], proposals: Sequence[Any] | None) -> list[int]:
        calls.append(proposals)
        if len(pixels) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return [len(pixels[0])]

    pixels = [np.zeros((n, 1, 3), np.uint8) for n in (1, 2, 3)]
    assert detect_halving(run, pixels, None) == [1, 2, 3]
    assert calls == [None] * 5


def test_an_image_too_large_for_the_gpu_fails_alone() -> None:
    pixels = [np.zeros((n, 1, 3), np.uint8) for n in (1, 99, 3)]
    found = detect_halving(SmallGpu(room=8), pixels, [np.zeros((0, 4), np.float32)] * 3)
    assert [isinstance(o, str) for o in found] == [False, True, False]
    assert found[1] == "CUDA out of memory. Tried to allocate 9 GiB"
