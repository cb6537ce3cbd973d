"""A process with limits and without secrets that parses what strangers wrote, seen from this side.

A library of C code gets the bytes only there. A crash costs one process, and a hostile file that makes it run
foreign code finds no credentials of the store and no sockets of Ray in its environment or memory: the process
is started anew, not forked. The process is not trusted, so its replies must be checked.

`pipeline.images.fence_child` and `pipeline.storage.archives.parquet_child` are the code of such processes;
they begin with `limit_resources`.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from typing import BinaryIO

START_SECONDS = 60.0
"""Time limit for the start of a process. A start takes a third of a second if the disk is not busy."""
LENGTH = struct.Struct("<I")
"""Length of the JSON object that begins a reply. A first reply of length 0 says that the process is ready."""
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_PIPE_BYTES = 2**20
"""Size of the pipes. With the usual 64 KB, the two processes would switch sixteen times as often."""


class DiedError(Exception):
    """The process ended, or gave an invalid reply."""


class TookTooLongError(Exception):
    """The deadline of a request or of a start has passed."""


class ChildProcess:
    """One such process. It reads requests from its stdin and writes replies to its stdout.

    Args:
        code: the Python code that it runs.
        what: names it in messages, e.g. ``decoding process``.
    """

    def __init__(self, code: str, what: str) -> None:
        self._what = what
        self.pid = os.getpid()
        """The process that started it. A forked copy of this object is not used."""
        # -I: no PYTHON* variables and no packages of the user's folder; sys.path is the one of this process.
        command = f"import sys; sys.path[:] = {sys.path!r}; {code}"
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
            self.receive(LENGTH.size, time.monotonic() + START_SECONDS)
        except (DiedError, TookTooLongError) as error:
            output = self._process.stderr.read(2000) if self._process.stderr else b""
            self.end()
            # The image did not cause this, and the next image would fail in the same way.
            raise RuntimeError(f"no {self._what} could be started: {output!r}") from error

    @property
    def _write_end(self) -> int:
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    @property
    def _read_end(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the process, and wait until the kernel has removed it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait()

    def send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            _wait(self._write_end, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._write_end, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise DiedError(self._how_it_died()) from error

    def receive(self, length: int, deadline: float) -> bytearray:
        data = bytearray(length)
        rest = memoryview(data)
        while rest:
            _wait(self._read_end, select.POLLIN, deadline)
            count = os.readv(self._read_end, [rest])
            if count == 0:
                raise DiedError(self._how_it_died())
            rest = rest[count:]
        return data

    def _how_it_died(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(5)
            how = f"of signal {-code}" if code < 0 else f"with exit code {code}"
            return f"its {self._what} died {how}"
        return f"its {self._what} closed its pipes"


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(1000 * left):
        raise TookTooLongError


def open_pipes() -> tuple[BinaryIO, BinaryIO]:
    """In the process: return the pipes for requests and replies. What a library prints is thrown away."""
    # The process of a job blocks signals (`pipeline.runtime.ending`), and its children begin as it is.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    devnull = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(devnull, descriptor)
    return requests, replies


def limit_resources(memory_bytes: int, threads: bool) -> None:
    """In the process: limit its memory; forbid core files, written files and child processes."""
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))
    if not threads:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    try:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return  # not Linux: other kernels ignore the next limit
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes,) * 2)
