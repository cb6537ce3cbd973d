"""Decodes images in another process, with limits and without secrets ("behind the fence").

A decoder is C code that reads files written by strangers. Behind the fence, a crash costs one process of
40 MB, which starts again in a third of a second. An endless loop costs `SECONDS`. A decompression bomb stops
at its memory limit. If an image makes the process run foreign code, that code has no credentials of the store
and no sockets of Ray in its environment or memory, because the process is started anew, not forked. A process
decodes many images, and is replaced after `IMAGES_A_PROCESS`.
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
"""Time limit for one image. A PNG of 100 million pixels takes 3 to 5 seconds."""
START_SECONDS = 60.0
"""Time limit for the start of a process. A start takes a third of a second if the disk is not busy."""
BYTES_A_PIXEL = 24
"""Memory allowed for each pixel of --max-pixels: Pillow's 4 bytes, twice for transparency, and RGB copies."""
BASE_BYTES = 256 * 2**20
"""Memory allowed for every image: its encoded bytes, the buffers of zlib and libtiff."""
IMAGES_A_PROCESS = 1000
"""Images that one process decodes. If a hostile image has damaged the memory of the process, later processes
are not affected. The restarts cost a third of a millisecond an image."""
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_REPLY_BYTES = 10_000
_TEXT_CHARACTERS = 500
"""Characters that are kept of an error or a warning from the decoding process."""
_PIPE_BYTES = 2**20
"""Size of the pipes. With the usual 64 KB, the two processes would switch sixteen times as often."""

Pixels = npt.NDArray[np.uint8]


class _DiedError(Exception):
    """The process ended, or gave an invalid reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fenced:
    """The reply to one request."""

    height: int
    width: int
    pixels: Pixels | None
    """(H, W, 3) uint8 RGB, upright, writable; None if only the size was requested."""
    warning: str | None


class Fence:
    """A pool of decoding processes. Any thread may call it.

    Args:
        max_processes: processes at most; each decodes one image at a time, and further callers wait.
        seconds: time limit for one image.
    """

    def __init__(self, *, max_processes: int = 4, seconds: float = SECONDS) -> None:
        self._room = threading.BoundedSemaphore(max_processes)
        self.seconds = seconds
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self.peak_bytes = 0
        """Largest memory that any of the processes has used."""
        self.started = 0
        """Number of processes started so far."""

    def decode(
        self, data: bytes, format: Format, *, max_pixels: int, only_size: bool = False
    ) -> Fenced:
        """Decode one image, or read only its size.

        Raises:
            ImageError: as in `pipeline.images.pillow`; `failed` if the image killed its process twice or
                took longer than `seconds`.
        """
        head = REQUEST.pack(max_pixels, only_size, format.encode().ljust(4), len(data))
        with self._room:
            try:
                return self._ask(head, data, max_pixels, only_size)
            except _DiedError:
                # Try again in a new process: the kernel may have killed the first to free memory for others.
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
    """One decoding process, seen from this side."""

    def __init__(self, memory_bytes: int, seconds: float) -> None:
        self.memory_bytes = memory_bytes
        self.asked = 0
        self.peak_bytes = 0
        self.pid = os.getpid()
        # -I: no PYTHON* variables and no packages of the user's folder; sys.path is the one of this process.
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
            # It fails on other systems than Linux, and if the user has used up the memory for pipes.
            with suppress(OSError, AttributeError):
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self._receive(LENGTH.size, time.monotonic() + START_SECONDS)
        except (_DiedError, _TookTooLongError) as error:
            output = self._process.stderr.read(2000) if self._process.stderr else b""
            self.end()
            # The image did not cause this, and the next image would fail in the same way.
            raise RuntimeError(f"no decoding process could be started: {output!r}") from error

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
        """Send one request and return the reply."""
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
            raise ImageError("failed", f"decoding took more than {seconds:g} s") from error
        return Fenced(height=height, width=width, pixels=pixels, warning=reply["warning"])

    def end(self) -> None:
        """Kill the process, and wait until the kernel has removed it."""
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
    """The deadline of a request or of a start has passed."""


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(1000 * left):
        raise _TookTooLongError


def _checked(encoded: bytearray, max_pixels: int) -> dict[str, Any]:
    """Parse a reply and check the type and range of every value: the process is not trusted."""
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
        raise _DiedError(f"its decoding process gave an invalid reply ({error})") from error


_fence: Fence | None = None
_making = threading.Lock()


def fence() -> Fence:
    """Return the `Fence` of this process; it is made when it is first needed."""
    global _fence
    with _making:
        if _fence is None:
            _fence = Fence()
            atexit.register(_fence.close)
        return _fence
