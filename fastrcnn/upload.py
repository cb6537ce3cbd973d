"""Copies of images to a GPU while the GPU computes.

The copies use pinned memory and a separate CUDA stream. The host does not wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Images on the device. On a GPU the copies may still be in progress until `wait`."""

    images: list[Tensor]
    """Tensors (H, W, 3) uint8."""
    copied: torch.cuda.Event | None
    """The end of the copies. None: there is nothing to wait for."""

    def wait(self) -> list[Tensor]:
        """Make the current CUDA stream wait for the copies, and return the images. The host does not wait."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.images[0].device)
            stream.wait_event(self.copied)
            for image in self.images:
                # Without this, torch could reuse the memory for another copy before the stream has read it.
                image.record_stream(stream)
        return self.images


class Uploads:
    """Starts copies to one device. One thread may start copies while another thread computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def start(self, images: Sequence[Tensor]) -> Uploaded:
        """Start to copy images (H, W, 3) uint8 to the device. If it is a CPU, no copy is made."""
        if self._stream is None or not images:
            return Uploaded(list(images), None)
        with torch.cuda.stream(self._stream):
            copies = [i.pin_memory().to(self._device, non_blocking=True) for i in images]
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no type for it
            copied.record(self._stream)
        return Uploaded(copies, copied)
