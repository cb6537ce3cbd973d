"""Errors of a GPU by their texts: too little memory, a broken context, or neither."""

from __future__ import annotations

import pytest

from fastrcnn.gpu_errors import breaks_the_gpu, lacks_memory


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 15 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. The workspace of 3 GiB cannot be allocated",
        "FIND was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
    ],
)
def test_errors_that_less_work_avoids(text: str) -> None:
    assert lacks_memory(text)
    assert not breaks_the_gpu(text)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    ],
)
def test_errors_after_which_a_process_can_do_no_more_work(text: str) -> None:
    assert breaks_the_gpu(text)
    assert not lacks_memory(text)


@pytest.mark.parametrize(
    "text",
    [
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. You may have passed a non-contiguous input",
        "",
    ],
)
def test_other_errors_are_neither(text: str) -> None:
    assert not lacks_memory(text)
    assert not breaks_the_gpu(text)
