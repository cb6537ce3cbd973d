"""Keeps lines of Ray that say nothing to a user out of the log of a job.

Ray prints what its workers and helpers print. Three kinds of lines look like errors and are none: remarks
of its C++ core (`core_worker.cc`), the whole report of each checkpoint (`TrainingReport(...)`), and the
tracebacks of a helper that deletes placement groups of killed trainings (`PlacementGroupCleaner`). They stay
in Ray's session folder.

Ray's C++ core also writes to this process's stderr itself, past Python: an error about the arguments of each
actor of Ray Data. So the file descriptor leads through a `grep`, which also prints what the process wrote
before it crashed. Python writes to the terminal directly.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_NOISE = re.compile(
    r"\bcore_worker\.cc:\d+|\bReporting training result \d+: TrainingReport\("
    r"|\(PlacementGroupCleaner\b[^)]*\)"
)
_FROM_CORE = "core_worker.cc:.* has constructor arguments in the object store and max_restarts > 0"
"""Pattern of the lines that are left out of what is written past Python. Ray Data puts what an actor runs
into the object store, and its driver keeps it alive, so the actors do restart."""
_STDERR = 2
_kept: list[TextIO] = []
"""Streams that others may still write to after the context: handlers of logs, and `faulthandler` by its
descriptor. They are never closed."""
_LAST_LINES_S = 1.0
"""Time that `grep` gets to print its last lines. Processes that outlive the job may keep it open."""


@contextmanager
def without_noise() -> Iterator[None]:
    """Leave these lines out of what this process prints inside the context."""
    before = sys.stdout, sys.stderr
    with _through_grep(before[1]) as stderr:
        sys.stdout, sys.stderr = _filtered(before[0]), _filtered(stderr)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _filtered(stream: TextIO | None) -> Any:
    """Filter a stream. None: the process was started with this stream closed."""
    return None if stream is None else _Filtered(stream)


@contextmanager
def _through_grep(stream: TextIO) -> Iterator[TextIO]:
    """Filter what is written to the file descriptor of stderr past Python. Give a stream for Python.

    Nothing changes where `stream` is not this descriptor, as in tests and notebooks, and without `grep`.
    """
    grep = shutil.which("grep")
    if grep is None or not _is_stderr(stream):
        yield stream
        return
    terminal = os.dup(_STDERR)
    command = [grep, "--line-buffered", "--text", "-v", _FROM_CORE]
    # Ctrl-C goes to all processes of a terminal. In its own session, grep ends when nobody writes to it.
    filter_ = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=terminal, start_new_session=True
    )
    assert filter_.stdin is not None
    direct = os.fdopen(
        os.dup(terminal), "w", encoding=stream.encoding, errors=stream.errors, buffering=1
    )
    os.dup2(filter_.stdin.fileno(), _STDERR)
    filter_.stdin.close()
    _move_log(stream, direct)
    _kept.append(direct)
    try:
        yield direct
    finally:
        os.dup2(terminal, _STDERR)
        os.close(terminal)
        _move_log(direct, stream)
        with suppress(OSError):  # nobody reads it any more, or its disk is full
            direct.flush()
        with suppress(subprocess.TimeoutExpired):
            filter_.wait(_LAST_LINES_S)


def _is_stderr(stream: TextIO) -> bool:
    try:
        return stream.fileno() == _STDERR
    except (AttributeError, OSError, io.UnsupportedOperation):
        return False


def _move_log(stream: TextIO, target: TextIO) -> None:
    """Let the handlers of the log that write to a stream write to another one."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
            handler.stream = target  # `setStream` flushes, which fails if nobody reads


class _Filtered:
    """A text stream without these lines. Each call of `print` writes a line, and then its end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        """Write the text, except whole lines of noise."""
        if self._dropped and text == "\n":
            self._dropped = False
            return 1
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines if not _NOISE.search(line)]
        self._dropped = bool(lines) and _NOISE.search(lines[-1]) is not None and text[-1] != "\n"
        if kept:
            self._stream.write("".join(kept))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each text."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
