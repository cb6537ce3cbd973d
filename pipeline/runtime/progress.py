"""Shows the progress of a job: as a bar on a terminal, as plain lines in a log.

    with Progress("scoring", total, "images") as progress:
        progress.update(done, "981 ok, 3 undecodable")

On a terminal, the bar is drawn on stderr, below the log lines. Elsewhere (a pipe, a file, ``ray job logs``),
a line is logged every `SECONDS_BETWEEN_LINES`. If any line was logged, the end is logged too.
Ray's workers have no terminal: `pipeline.training.board` logs the steps of a training.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.console import Console

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """The progress of one piece of work. Call it from one thread only.

    Args:
        what: names the work with a participle or a noun, such as "scoring".
        total: the number of items; None if it is not known yet.
        unit: the name of the items, in the plural.
        done: the number of items that an earlier command has done.
    """

    def __init__(self, what: str, total: int | None, unit: str, *, done: int = 0) -> None:
        self._name, self._total, self._unit = what, total, unit
        self._done = self._before = done
        self._note = ""
        self._shown: tuple[int, str] | None = None
        self._started = self._logged = time.monotonic()
        self._bar: rich_progress.Progress | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = self._stack.enter_context(_bar(self._unit))
            self._stack.enter_context(_logging_above())
            self._task = self._bar.add_task(
                self._name, total=self._total, completed=self._done, note=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None and self._total is None and kind is None:
            self._bar.update(self._task, total=self._done)
        self._stack.close()
        if self._shown not in (None, (self._done, self._note)) and kind is None:
            self._log()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` items are done, with a note such as their counts by status."""
        self._done, self._note = done, note
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._logged >= SECONDS_BETWEEN_LINES:
            self._log()

    def _log(self) -> None:
        self._logged, self._shown = time.monotonic(), (self._done, self._note)
        rate = (self._done - self._before) / max(self._logged - self._started, 1e-9)
        of = left = ""
        if self._total is not None:
            seconds = (self._total - self._done) / rate if rate else float("inf")
            of, left = f" of {self._total}", f", {duration(seconds)} left"
        note = f"; {self._note}" if self._note else ""
        logger.info(
            "%s: %d%s %s, %.1f/s%s%s", self._name, self._done, of, self._unit, rate, left, note
        )


def duration(seconds: float) -> str:
    """Format seconds as ``0:00:07``; infinity, for an unknown time, as ``?``."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _bar(unit: str) -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn(unit),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    )


@contextmanager
def _logging_above() -> Iterator[None]:
    """Make log handlers write to the present sys.stderr, so that rich draws their lines above its bar.

    rich replaces sys.stderr while the bar is shown, but the handlers keep the old stream.
    """
    handlers = [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)
