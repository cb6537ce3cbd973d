"""Keeps lines of Ray that say nothing to a user out of the log of a job.

Ray prints what its workers and helpers print. Three kinds of lines look like errors and are none: remarks
of its C++ core (`core_worker.cc`), the whole report of each checkpoint (`TrainingReport(...)`), and the
tracebacks of a helper that deletes placement groups of killed trainings (`PlacementGroupCleaner`). They stay
in Ray's session folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_NOISE = re.compile(
    r"\bcore_worker\.cc:\d+|\bReporting training result \d+: TrainingReport\("
    r"|\(PlacementGroupCleaner\b[^)]*\)"
)


@contextmanager
def without_noise() -> Iterator[None]:
    """Leave these lines out of what this process prints inside the context."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Filtered(before[0]), _Filtered(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


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
