"""One process behind the fence, seen from this side: it is started, asked and ended here.

The process is not trusted: every value of its replies is checked. `pipeline.images.fence_child` is its code.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import one_line
from pipeline.images.fence_child import TEXT_CHARACTERS
from pipeline.images.guard import ImageError
from pipeline.runtime.child_process import LENGTH, ChildProcess, DiedError, TookTooLongError

_REPLY_BYTES = 10_000
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class FenceReply:
    """The reply to one request."""

    height: int
    width: int
    pixels: Pixels | None
    """(H, W, 3) uint8 RGB, upright, writable; None if only the size was requested."""
    warning: str | None
    lacks_end: bool = False
    """Whether the file is a JPEG that ends before its picture does."""


class FenceProcess(ChildProcess):
    """One decoding process, seen from this side."""

    def __init__(self, memory_bytes: int, seconds: float, threads: bool) -> None:
        self.memory_bytes = memory_bytes
        self.threads = threads
        self.asked = 0
        self.peak_bytes = 0
        super().__init__(
            "from pipeline.images.fence_child import serve; "
            f"serve({memory_bytes}, {int(2 * seconds) + 1}, {threads})",
            "decoding process",
        )

    def ask(
        self, head: bytes, data: bytes, max_pixels: int, only_size: bool, seconds: float
    ) -> FenceReply:
        """Send one request and return the reply."""
        deadline = time.monotonic() + seconds
        try:
            self.send(head, deadline)
            self.send(data, deadline)
            (length,) = LENGTH.unpack(self.receive(LENGTH.size, deadline))
            reply = _parse_reply(self.receive(min(length, _REPLY_BYTES), deadline), max_pixels)
            self.peak_bytes = reply["peak_bytes"]
            if "status" in reply:
                raise ImageError(reply["status"], reply["error"])
            height, width = reply["height"], reply["width"]
            pixels = None
            if not only_size:
                raw = self.receive(height * width * 3, deadline)
                pixels = np.frombuffer(raw, np.uint8).reshape(height, width, 3)
        except TookTooLongError as error:
            raise ImageError("failed", f"decoding took more than {seconds:g} s") from error
        return FenceReply(
            height=height,
            width=width,
            pixels=pixels,
            warning=reply["warning"],
            lacks_end=reply["lacks_end"],
        )

    def receive_json(self, deadline: float) -> dict[str, Any]:
        """Receive a JSON object, which the caller must check, and count the memory that it states.

        Raises:
            DiedError: it is no such object.
        """
        (length,) = LENGTH.unpack(self.receive(LENGTH.size, deadline))
        encoded = self.receive(min(length, _REPLY_BYTES), deadline)
        try:
            reply = json.loads(encoded)
            self.peak_bytes = int(reply["peak_bytes"])
        except (ValueError, TypeError, KeyError) as error:
            raise DiedError(f"its decoding process gave an invalid reply ({error})") from error
        return dict(reply)


def _parse_reply(encoded: bytearray, max_pixels: int) -> dict[str, Any]:
    """Parse a reply and check the type and range of every value: the process is not trusted."""
    try:
        reply = json.loads(encoded)
        peak_bytes = int(reply["peak_bytes"])
        if "status" in reply:
            if reply["status"] not in ("undecodable", "too_large"):
                raise ValueError("status")
            return {
                "status": reply["status"],
                "error": one_line(reply["error"])[:TEXT_CHARACTERS],
                "peak_bytes": peak_bytes,
            }
        height, width = int(reply["height"]), int(reply["width"])
        if height < 1 or width < 1 or height * width > max_pixels:
            raise ValueError("size")
        warning = reply.get("warning")
        return {
            "height": height,
            "width": width,
            "warning": None if warning is None else one_line(warning)[:TEXT_CHARACTERS],
            "lacks_end": reply.get("lacks_end") is True,
            "peak_bytes": peak_bytes,
        }
    except (ValueError, TypeError, KeyError) as error:
        raise DiedError(f"its decoding process gave an invalid reply ({error})") from error
