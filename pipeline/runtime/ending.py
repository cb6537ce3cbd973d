"""Ends a job on SIGINT, SIGTERM or SIGHUP: one line, no traceback, no process and no temporary file left.

A thread waits for the signals and ends the job. No handler does: the main thread may be in a call of Ray,
DuckDB or torch for seconds, and to unwind it would wait for its requests. All other threads block the
signals, so handlers of libraries are never called; `ray.init` installs one that dumps the stack on SIGTERM.
What is written is whole at any time (`pipeline.record`), so the process may end at once, as after SIGKILL.

    1  write the line; silence everything else
    2  call what was passed to `at_end`, for `_AT_END_S` at most
    3  stop all descendants, then kill those that are not children: workers of a Ray that this job started
    4  delete the temporary folder of the job
    5  kill the children and exit with 128 + the number of the signal
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from pipeline.runtime.scratch import scratch_folder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AT_END_S = 0.7
_CLOSE = signal.SIGUSR1
"""Sent to the thread alone: the job has ended without a signal."""
_DEATH_S = 0.5
"""Time that killed processes get to disappear."""
_SHOW_CURSOR = "\n\x1b[?25h"
"""For terminals: rich hides the cursor while a progress bar is shown."""


@contextmanager
def guarded() -> Iterator[None]:
    """Guard a job: on a signal, end the process as the module's docstring says.

    Everything that the job, its decoders and the workers of a Ray that it starts put into the temporary
    folder lies in one folder, which is deleted in any case. Without effect outside the main thread and inside
    another guarded job.

    Raises:
        UserError: the temporary folder cannot be used.
    """
    global _guard
    if _guard is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    with scratch_folder() as folder:
        _guard = _Guard(folder)
        try:
            yield
        finally:
            _guard.close()
            _guard = None


def is_guarded() -> bool:
    """Return whether this process runs a job under `guarded`."""
    return _guard is not None


@contextmanager
def at_end(call: Callable[[], None]) -> Iterator[None]:
    """Inside the context, call this before a signal ends the job."""
    guard = _guard
    if guard is not None:
        guard.calls.append(call)
    try:
        yield
    finally:
        if guard is not None:
            guard.calls.remove(call)


def end_job(code: int, line: str) -> None:
    """End a guarded job from any thread. Outside a job, raise KeyboardInterrupt in the main thread."""
    if _guard is not None:
        _guard.end(code, line)
    signal.raise_signal(signal.SIGINT)


class _Guard:
    """The thread that ends a job on a signal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # `nohup` and background jobs of a shell ignore some signals, and so do their children.
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self.numbers = {n for n in SIGNALS if self._handlers[n] is not signal.SIG_IGN}
        self._ends = threading.Lock()
        self.calls: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._watch, name="ending", daemon=True)
        # Threads and processes that start from now on block the signals too, see `_unblock`.
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, self.numbers | {_CLOSE})
        self._thread.start()
        if _CLOSE not in self._blocked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {_CLOSE})

    def close(self) -> None:
        """Deliver signals as before. If a signal has come, wait until the thread has ended the process."""
        assert self._thread.ident is not None
        signal.pthread_kill(self._thread.ident, _CLOSE)
        self._thread.join()
        with self._ends:
            for number in self.numbers:
                signal.signal(number, self._handlers[number] or signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)

    def _watch(self) -> None:
        number = signal.Signals(signal.sigwait(self.numbers | {_CLOSE}))
        if number in self.numbers:
            self.end(
                128 + number,
                f"stopped by {number.name}. What is written is whole; run the same command again to continue",
            )

    def end(self, code: int, line: str) -> NoReturn:
        """End this process. Only the first call does so; the others wait for it."""
        with self._ends:
            _say_last(line)
            calls = threading.Thread(target=self._call, daemon=True)
            calls.start()
            calls.join(_AT_END_S)
            children = _end_workers()
            shutil.rmtree(self._folder, ignore_errors=True)
            _kill_all(children)
            os._exit(code)

    def _call(self) -> None:
        for call in list(self.calls):
            call()


_guard: _Guard | None = None


def _unblock() -> None:
    """Let signals end a forked process. Ray forks when it starts its services."""
    if _guard is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _guard.numbers)


os.register_at_fork(after_in_child=_unblock)


def _say_last(line: str) -> None:
    """Write a line to stderr; then send what other threads and processes write to nowhere."""
    start, terminal = "", 2
    with suppress(OSError, AttributeError):  # no descriptor, as in a notebook; or stderr is closed
        start = _SHOW_CURSOR if sys.stderr.isatty() else ""
        terminal = sys.stderr.fileno()  # not 2 where `pipeline.runtime.quiet` filters 2
    with suppress(OSError):
        os.write(terminal, f"{start}{line}\n".encode())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2, terminal):
        os.dup2(nowhere, descriptor)


def _end_workers() -> set[int]:
    """Stop all descendants of this process, and kill all but the children. Return the children.

    A Ray that this process started is its child, and the workers are children of that. A stopped raylet
    starts no other worker, and this process, which is connected to it, does not notice.
    """
    me, stopped = os.getpid(), set[int]()
    while new := descendants(me) - stopped:
        for pid in new:
            _kill(pid, signal.SIGSTOP)
        stopped |= new
    parents = _parents()
    children = {pid for pid in stopped if parents.get(pid) == me}
    workers = stopped - children
    _kill_all(workers)
    return children


def _kill_all(pids: set[int]) -> None:
    """Kill processes, and wait until they have disappeared."""
    for pid in pids:
        _kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _DEATH_S
    while pids & _parents().keys() and time.monotonic() < deadline:
        time.sleep(0.01)


def descendants(pid: int) -> set[int]:
    """Return the ids of all running descendants of a process. Empty on systems without /proc."""
    parents = _parents()
    found: set[int] = set()
    layer = {pid}
    while layer:
        layer = {child for child, parent in parents.items() if parent in layer} - found
        found |= layer
    return found


def _parents() -> dict[int, int]:
    """Return the parent of every running process, without zombies."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # proc(5): the name, in parentheses, may hold any text. After it come state and parent.
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.parent.name)] = int(parent)
    return parents


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
