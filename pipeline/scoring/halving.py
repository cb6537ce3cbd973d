"""A batch that does not fit a GPU, in halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import one_line

Outcome = TypeVar("Outcome")
Pixels = npt.NDArray[np.uint8] | Tensor
"""(H, W, 3) uint8."""


def detect_halving(
    run: Callable[[Sequence[Any], Sequence[Any] | None], list[Outcome]],
    pixels: Sequence[Pixels],
    proposals: Sequence[npt.NDArray[np.float32]] | None,
) -> list[Outcome | str]:
    """Detect on a batch; where it does not fit the GPU, on its halves; an image that does not fit alone
    gives the cause instead of its outcome."""
    if not pixels:
        return []
    try:
        return list(run(pixels, proposals))
    except torch.cuda.OutOfMemoryError as error:
        cause = one_line(error)
    # Outside the handler: the traceback would keep the failed batch's tensors alive.
    torch.cuda.empty_cache()
    if len(pixels) == 1:
        return [cause]
    half = len(pixels) // 2
    parts = (slice(None, half), slice(half, None))
    return [
        outcome
        for part in parts
        for outcome in detect_halving(
            run, pixels[part], None if proposals is None else proposals[part]
        )
    ]
