"""Copies to a GPU that the host does not wait for. They use pinned memory.

`Uploads` copies images on a separate CUDA stream while the GPU computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device, in the order of the device's work. The host does not wait.

    A tensor that is there already is returned as it is.
    """
    if torch.device(device).type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def send_together(parts: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Copy N tensors (M_i, ...) to a device with one copy. They differ in their lengths M_i only."""
    if not parts:
        return []
    return list(torch.split(send(torch.cat([*parts]), device), [len(part) for part in parts]))


@dataclass(frozen=True, slots=True)
class UploadedImages:
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


MOST_BYTES = 512 * 2**20
"""Larger batches stay in the memory of the host. The network then copies what it looks at, so that large
images do not fill the GPU: 16 images of 12 megapixels are copied ahead, and one of 900 is not."""


class Uploads:
    """Starts copies to one device. One thread may start copies while another thread computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def start(self, images: Sequence[Tensor]) -> UploadedImages:
        """Start to copy images (H, W, 3) uint8 to the device.

        If it is a CPU, or if they have more than `MOST_BYTES`, no copy is made.
        """
        if self._stream is None or not images or sum(map(torch.numel, images)) > MOST_BYTES:
            return UploadedImages(list(images), None)
        with torch.cuda.stream(self._stream):
            copies = [i.pin_memory().to(self._device, non_blocking=True) for i in images]
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no type for it
            copied.record(self._stream)
        return UploadedImages(copies, copied)
