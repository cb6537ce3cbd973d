"""torch.compile, where it was asked for: whether it can work."""

from __future__ import annotations

import importlib.util

from pipeline.errors import UserError


def check_compiles(flag: str, gpus: float) -> None:
    """Raises UserError where torch.compile is slower than without it, or cannot work.

    Args:
        flag: that asked for it.
        gpus: of each worker.
    """
    if not gpus:
        # mobilenet_v2, two images of 240 px, a training step: .26 s against .17, after four minutes.
        why = "is slower on CPUs"
    elif importlib.util.find_spec("triton") is None:
        why = "needs triton, which is not installed"
    else:
        return
    raise UserError(flag, why, "Leave it out.")
