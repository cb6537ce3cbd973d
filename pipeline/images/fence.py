"""Decodes images in another process, with limits and without secrets ("behind the fence").

A decoder is C code that reads files written by strangers. Behind the fence, a crash costs one process of
40 MB, which starts again in a third of a second. An endless loop costs `SECONDS`. A decompression bomb stops
at its memory limit. If an image makes the process run foreign code, that code has no credentials of the store
and no sockets of Ray in its environment or memory, because the process is started anew, not forked. A process
decodes many images, and is replaced after `IMAGES_A_PROCESS`.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.images.fence_child import request_head
from pipeline.images.fence_process import FenceProcess, FenceReply
from pipeline.images.guard import Format, ImageError
from pipeline.images.samples import NEUTRAL, SampleRules
from pipeline.runtime.child_process import DiedError

SECONDS = 20.0
"""Time limit for one image of up to `SECONDS_PIXELS`; it grows with --max-pixels above that. A PNG of 100
million pixels takes 3 to 5 seconds."""
SECONDS_PIXELS = 100_000_000
_THREADED: tuple[Format, ...] = ("HEIF",)
"""Formats whose decoder needs threads. libde265 ends its process if it cannot start one."""
BYTES_A_PIXEL = 24
"""Memory allowed for each pixel of --max-pixels: Pillow's 4 bytes, twice for transparency, and RGB copies."""
BASE_BYTES = 256 * 2**20
"""Memory allowed for every image: its encoded bytes, the buffers of zlib and libtiff."""
IMAGES_A_PROCESS = 1000
"""Images that one process decodes. If a hostile image has damaged the memory of the process, later processes
are not affected. The restarts cost a third of a millisecond an image."""


class Fence:
    """A pool of decoding processes. Any thread may call it.

    Args:
        max_processes: processes at most; each decodes one image at a time, and further callers wait.
        seconds: time limit for one image of up to `SECONDS_PIXELS` pixels.
    """

    def __init__(self, *, max_processes: int = 4, seconds: float = SECONDS) -> None:
        self._room = threading.BoundedSemaphore(max_processes)
        self.seconds = seconds
        self._idle: list[FenceProcess] = []
        self._lock = threading.Lock()
        self.peak_bytes = 0
        """Largest memory that any of the processes has used."""
        self.started = 0
        """Number of processes started so far."""

    def decode(
        self,
        data: bytes,
        format: Format,
        *,
        max_pixels: int,
        only_size: bool = False,
        rules: SampleRules = NEUTRAL,
    ) -> FenceReply:
        """Decode one image, or read only its size.

        Raises:
            ImageError: as in `pipeline.images.pillow`; `failed` if the image killed its process twice or
                took longer than `seconds`.
        """
        head = request_head(format, len(data), max_pixels, only_size, rules)
        with self._room:
            try:
                child = self._take(format, max_pixels)
                return self._ask(child, head, data, max_pixels, only_size)
            except DiedError:
                # The kernel may have killed the process to free memory for others. It may have killed the
                # idle ones too, so the second try starts a process.
                fresh = self._start(format, max_pixels)
            try:
                return self._ask(fresh, head, data, max_pixels, only_size)
            except DiedError as error:
                raise ImageError("failed", str(error)) from error

    @contextmanager
    def process(self, max_pixels: int) -> Iterator[tuple[FenceProcess, tuple[float, int]]]:
        """Start a process for one image of which parts are decoded, and end it after the block.

        Yields:
            The process; and the time limit for a part, which holds for so many pixels.
        """
        with self._room:
            child = self._start("TIFF", max_pixels)
            try:
                yield child, (self.seconds, SECONDS_PIXELS)
            finally:
                self.peak_bytes = max(self.peak_bytes, child.peak_bytes)
                child.end()

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

    def _ask(
        self, child: FenceProcess, head: bytes, data: bytes, max_pixels: int, only_size: bool
    ) -> FenceReply:
        seconds = self._seconds(max_pixels)
        try:
            fenced = child.ask(head, data, max_pixels, only_size, seconds)
        except ImageError as error:
            if error.status == "failed":
                child.end()
            else:
                self._give_back(child)
            raise
        except BaseException:
            child.end()
            raise
        self._give_back(child)
        return fenced

    def _take(self, format: Format, max_pixels: int) -> FenceProcess:
        """Take an idle process that still runs and has the right limits, or start one."""
        limits = _memory_bytes(max_pixels), format in _THREADED
        with self._lock:
            ours = [child for child in self._idle if child.pid == os.getpid()]
            dead = [child for child in ours if not child.runs()]
            self._idle = [child for child in ours if child not in dead]
            fitting = [c for c in self._idle if (c.memory_bytes, c.threads) == limits]
            if fitting:
                self._idle.remove(fitting[-1])
        for child in dead:
            child.end()  # closes its pipes
        return fitting[-1] if fitting else self._start(format, max_pixels)

    def _seconds(self, max_pixels: int) -> float:
        """Return the time limit for one image."""
        return self.seconds * max(1.0, max_pixels / SECONDS_PIXELS)

    def _start(self, format: Format, max_pixels: int) -> FenceProcess:
        with self._lock:
            self.started += 1
        return FenceProcess(
            _memory_bytes(max_pixels), self._seconds(max_pixels), format in _THREADED
        )

    def _give_back(self, child: FenceProcess) -> None:
        self.peak_bytes = max(self.peak_bytes, child.peak_bytes)
        child.asked += 1
        if child.asked >= IMAGES_A_PROCESS:
            child.end()
            return
        with self._lock:
            self._idle.append(child)


def _memory_bytes(max_pixels: int) -> int:
    """Return the memory that a process may take to decode images of this many pixels."""
    return BASE_BYTES + BYTES_A_PIXEL * max_pixels


_fence: Fence | None = None
_fence_lock = threading.Lock()


def fence() -> Fence:
    """Return the `Fence` of this process; it is made when it is first needed."""
    global _fence
    with _fence_lock:
        if _fence is None:
            _fence = Fence()
            atexit.register(_fence.close)
        return _fence
