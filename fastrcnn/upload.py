"""Pixels on their way to a GPU while it computes: pinned memory, a stream of their own, no waiting host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Images that are on the device, or will be when it gets to them."""

    images: list[Tensor]
    """(H, W, 3) uint8."""
    arrived: torch.cuda.Event | None

    def wait(self) -> list[Tensor]:
        """The images, for the current stream: what it is given from now on runs after the copies. The host
        does not wait."""
        if self.arrived is not None:
            stream = torch.cuda.current_stream(self.images[0].device)
            stream.wait_event(self.arrived)
            for image in self.images:
                image.record_stream(
                    stream
                )  # else its memory is another copy's before it has been read
        return self.images


class Uploads:
    """Copies to one device; any one thread may start them while another computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def start(self, images: Sequence[Tensor]) -> Uploaded:
        """Copy images (H, W, 3) uint8 to the device; on a CPU they are there."""
        if self._stream is None or not images:
            return Uploaded(list(images), None)
        with torch.cuda.stream(self._stream):
            copies = [i.pin_memory().to(self._device, non_blocking=True) for i in images]
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
            arrived.record(self._stream)
        return Uploaded(copies, arrived)
