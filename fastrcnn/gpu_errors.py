"""Tells two kinds of a GPU's errors apart: too little memory, and a context that can do no more work.

torch has a class for neither of them: `torch.cuda.OutOfMemoryError` covers its own allocator only. So the
texts of the errors decide. They come from torch 2.15 (CUDAException.cpp, and Exceptions.h for cuBLAS and for
cuDNN) and from CUDA's cudaGetErrorString.
"""

from __future__ import annotations

_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "HIP out of memory",
)
_NO_WORKSPACE = ("unable to find an engine", "Unable to find a valid cuDNN algorithm")
"""Said if no algorithm of a convolution fits: mostly because there is no memory for its workspace."""
_NOT_SUPPORTED = "CUDNN_STATUS_NOT_SUPPORTED"
_BROKEN = (
    "CUDA error",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_MAPPING_ERROR",
)


def lacks_memory(text: str) -> bool:
    """Tell whether an error says that the GPU has too little free memory. Less work may then succeed.

    Args:
        text: the message of the error.
    """
    if _NOT_SUPPORTED in text:
        return "workspace" in text
    return any(words in text for words in (*_MEMORY, *_NO_WORKSPACE))


def breaks_the_gpu(text: str) -> bool:
    """Tell whether an error means that every further call of this process to the GPU fails too.

    Such are an illegal memory access, an assertion in a kernel, a launch that failed, and memory errors that
    the GPU cannot correct (ECC). Only the end of the process helps.

    Args:
        text: the message of the error.
    """
    return not lacks_memory(text) and any(words in text for words in _BROKEN)
