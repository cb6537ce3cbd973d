"""Runs a network on half of a batch if the whole batch does not fit the GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastrcnn.gpu_errors import lacks_memory

Pixels = npt.NDArray[np.uint8] | Tensor
"""(H, W, 3) uint8 RGB, upright."""
Outcome = TypeVar("Outcome")


def detect_halving(
    network: Callable[[Sequence[Any], Sequence[Any] | None], list[Outcome]],
    pixels: Sequence[Pixels],
    proposals: Sequence[npt.NDArray[np.float32]] | None,
) -> list[Outcome | str]:
    """Call the network on a batch; if the batch does not fit the GPU, call it on the halves.

    Args:
        network: (pixels, proposals) -> one result an image.
        pixels: N images, as in `Detector.score`.
        proposals: N arrays, or None.

    Returns:
        One result an image. If one image alone does not fit, its result is the cause as text.
    """
    if not pixels:
        return []
    try:
        return list(network(pixels, proposals))
    except RuntimeError as error:
        if not lacks_memory(str(error)):
            raise
        cause = " ".join(str(error).split())
    # Not inside the handler, where the traceback keeps the tensors of the failed batch alive.
    torch.cuda.empty_cache()
    if len(pixels) == 1:
        return [cause]
    half = len(pixels) // 2
    first, second = (
        detect_halving(network, pixels[part], None if proposals is None else proposals[part])
        for part in (slice(None, half), slice(half, None))
    )
    return [*first, *second]
