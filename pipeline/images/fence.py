"""Decoding in another process, with limits and without secrets; what a worker does not decode itself.

A decoder is C code reading what strangers wrote. Behind the fence a crash costs a process of 40 MB that is
started again in a third of a second, a loop costs `SECONDS`, a bomb its memory limit; and code that ran
there would find neither the store's credentials nor Ray's sockets in its environment or memory (it is started
anew, not forked). It is kept between images, and replaced after `IMAGES_A_PROCESS`.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import one_line
from pipeline.images.fence_child import LENGTH, REQUEST
from pipeline.images.guard import Format, ImageError

SECONDS = 20.0
"""Of one image: 100 million pixels of PNG take 3 to 5."""
START_SECONDS = 60.0
"""For a process to be there; a third of a second where the disk is not busy."""
BYTES_A_PIXEL = 24
"""Memory allowed a pixel of --max-pixels: Pillow's 4, twice for transparency, and the RGB copies."""
BASE_BYTES = 256 * 2**20
"""Memory allowed whatever the image: encoded bytes, zlib's and libtiff's buffers."""
IMAGES_A_PROCESS = 1000
"""What a hostile image has done to its memory reaches no further; a third of a millisecond an image."""
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_REPLY_BYTES = 10_000
_TEXT_CHARACTERS = 500
"""How much of an error or a warning of the decoding process is kept."""
_PIPE_BYTES = 2**20
"""Instead of 64 KB: a sixteenth of the switches between the two processes."""

Pixels = npt.NDArray[np.uint8]


class _DiedError(Exception):
    """The process ended, or its time did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fenced:
    """A reply."""

    height: int
    width: int
    pixels: Pixels | None
    """(H, W, 3) uint8 RGB, upright, writable; None where only the size was asked for."""
    warning: str | None


class Fence:
    """Up to `max_processes` decoders, one image each at a time; any thread may call.

    Args:
        max_processes: more callers wait.
        seconds: of one image.
    """

    def __init__(self, *, max_processes: int = 4, seconds: float = SECONDS) -> None:
        self._room = threading.BoundedSemaphore(max_processes)
        self.seconds = seconds
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self.peak_bytes = 0
        """Most memory any of its processes ever had."""
        self.started = 0
        """Processes so far."""

    def decode(
        self, data: bytes, format: Format, *, max_pixels: int, only_size: bool = False
    ) -> Fenced:
        """Decode, or read the size of, one image.

        Raises:
            ImageError: as `pipeline.images.pillow`; `failed` where it killed its process twice or took
                longer than `seconds`.
        """
        head = REQUEST.pack(max_pixels, only_size, format.encode().ljust(4), len(data))
        with self._room:
            try:
                return self._ask(head, data, max_pixels, only_size)
            except _DiedError:
                # Once more, in a fresh process: the kernel may have taken the first for another's memory.
                try:
                    return self._ask(head, data, max_pixels, only_size)
                except _DiedError as error:
                    raise ImageError("failed", str(error)) from error

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

    def _ask(self, head: bytes, data: bytes, max_pixels: int, only_size: bool) -> Fenced:
        child = self._take(max_pixels)
        try:
            fenced = child.ask(head, data, max_pixels, only_size, self.seconds)
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

    def _take(self, max_pixels: int) -> _Child:
        memory = BASE_BYTES + BYTES_A_PIXEL * max_pixels
        with self._lock:
            fitting = [c for c in self._idle if c.pid == os.getpid() and c.memory_bytes == memory]
            if fitting:
                self._idle.remove(fitting[-1])
                return fitting[-1]
            self.started += 1
        return _Child(memory, self.seconds)

    def _give_back(self, child: _Child) -> None:
        self.peak_bytes = max(self.peak_bytes, child.peak_bytes)
        child.asked += 1
        if child.asked >= IMAGES_A_PROCESS:
            child.end()
            return
        with self._lock:
            self._idle.append(child)


class _Child:
    """One process."""

    def __init__(self, memory_bytes: int, seconds: float) -> None:
        self.memory_bytes = memory_bytes
        self.asked = 0
        self.peak_bytes = 0
        self.pid = os.getpid()
        # -I: neither PYTHON* variables nor the user's packages; the path is ours, as it stands now.
        command = (
            f"import sys; sys.path[:] = {sys.path!r}; from pipeline.images.fence_child import serve; "
            f"serve({memory_bytes}, {int(2 * seconds) + 1})"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        os.set_blocking(self._write_end, False)
        for end in (self._write_end, self._read_end):
            with suppress(OSError, AttributeError):  # not Linux, or a user's pipes are used up
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self._receive(LENGTH.size, time.monotonic() + START_SECONDS)
        except (_DiedError, _TookTooLongError) as error:
            said = self._process.stderr.read(2000) if self._process.stderr else b""
            self.end()
            # Not the image's fault, and the next would fare no better.
            raise RuntimeError(f"no decoding process could be started: {said!r}") from error

    @property
    def _write_end(self) -> int:
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    @property
    def _read_end(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def ask(
        self, head: bytes, data: bytes, max_pixels: int, only_size: bool, seconds: float
    ) -> Fenced:
        """The reply to one request."""
        deadline = time.monotonic() + seconds
        try:
            self._send(head, deadline)
            self._send(data, deadline)
            (length,) = LENGTH.unpack(self._receive(LENGTH.size, deadline))
            reply = _checked(self._receive(min(length, _REPLY_BYTES), deadline), max_pixels)
            self.peak_bytes = reply["peak_bytes"]
            if "status" in reply:
                raise ImageError(reply["status"], reply["error"])
            height, width = reply["height"], reply["width"]
            pixels = None
            if not only_size:
                raw = self._receive(height * width * 3, deadline)
                pixels = np.frombuffer(raw, np.uint8).reshape(height, width, 3)
        except _TookTooLongError as error:
            raise ImageError("failed", f"decoding takes more than {seconds:g} s") from error
        return Fenced(height=height, width=width, pixels=pixels, warning=reply["warning"])

    def end(self) -> None:
        """Kill it, and let the kernel forget it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait()

    def _send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            _wait(self._write_end, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._write_end, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise _DiedError(self._how_it_died()) from error

    def _receive(self, length: int, deadline: float) -> bytearray:
        data = bytearray(length)
        rest = memoryview(data)
        while rest:
            _wait(self._read_end, select.POLLIN, deadline)
            count = os.readv(self._read_end, [rest])
            if count == 0:
                raise _DiedError(self._how_it_died())
            rest = rest[count:]
        return data

    def _how_it_died(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(5)
            how = f"of signal {-code}" if code < 0 else f"with exit code {code}"
            return f"its decoding process died {how}"
        return "its decoding process closed its pipes"


class _TookTooLongError(Exception):
    """The deadline of a request, or of a start, is over."""


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(1000 * left):
        raise _TookTooLongError


def _checked(encoded: bytearray, max_pixels: int) -> dict[str, Any]:
    """A reply whose parts have the types and ranges that they must have: the process is not trusted."""
    try:
        reply = json.loads(encoded)
        peak_bytes = int(reply["peak_bytes"])
        if "status" in reply:
            if reply["status"] not in ("undecodable", "too_large"):
                raise ValueError("status")
            return {
                "status": reply["status"],
                "error": one_line(reply["error"])[:_TEXT_CHARACTERS],
                "peak_bytes": peak_bytes,
            }
        height, width = int(reply["height"]), int(reply["width"])
        if height < 1 or width < 1 or height * width > max_pixels:
            raise ValueError("size")
        warning = reply.get("warning")
        return {
            "height": height,
            "width": width,
            "warning": None if warning is None else one_line(warning)[:_TEXT_CHARACTERS],
            "peak_bytes": peak_bytes,
        }
    except (ValueError, TypeError, KeyError) as error:
        raise _DiedError(f"its decoding process gave no sensible reply ({error})") from error


_fence: Fence | None = None
_making = threading.Lock()


def fence() -> Fence:
    """This process' own, made when it is first needed."""
    global _fence
    with _making:
        if _fence is None:
            _fence = Fence()
            atexit.register(_fence.close)
        return _fence
