"""How far a job is: a bar where a person looks at a terminal, plain lines in a job's log.

    with Progress("scoring", total, "images") as progress:
        progress.update(done, "981 ok, 3 undecodable")

A bar is drawn on stderr, below what is logged meanwhile. Elsewhere (a pipe, a file, ``ray job logs``) there
is a line every `SECONDS_BETWEEN_LINES`, and one at the end of what took so long. Ray's workers have no
terminal: training's steps are lines of `pipeline.training.board`.
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
    """Progress of one piece of work, from one thread.

    Args:
        what: a participle or a noun: "scoring".
        total: how many there are; None where nobody knows yet.
        unit: what is counted, in the plural.
        done: how many were done when this began, by an earlier command.
    """

    def __init__(self, what: str, total: int | None, unit: str, *, done: int = 0) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = self._before = done
        self._said = ""
        self._logged_any = False
        self._started = self._logged = time.monotonic()
        self._bar: rich_progress.Progress | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = self._stack.enter_context(_bar(self._unit))
            self._stack.enter_context(_logging_above())
            self._task = self._bar.add_task(
                self._what, total=self._total, completed=self._done, said=""
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
        if self._bar is None and self._logged_any and kind is None:
            self._log()

    def update(self, done: int, said: str = "") -> None:
        """Take how many are done by now, and what else is to be said of them."""
        self._done, self._said = done, said
        if self._bar is not None:
            self._bar.update(self._task, completed=done, said=said)
        elif time.monotonic() - self._logged >= SECONDS_BETWEEN_LINES:
            self._log()

    def _log(self) -> None:
        self._logged, self._logged_any = time.monotonic(), True
        rate = (self._done - self._before) / max(self._logged - self._started, 1e-9)
        of = left = ""
        if self._total is not None:
            seconds = (self._total - self._done) / rate if rate else float("inf")
            of, left = f" of {self._total}", f", {duration(seconds)} left"
        said = f"; {self._said}" if self._said else ""
        logger.info(
            "%s: %d%s %s, %.1f/s%s%s", self._what, self._done, of, self._unit, rate, left, said
        )


def duration(seconds: float) -> str:
    """``0:00:07``; ``?`` where nobody knows."""
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
        rich_progress.TextColumn("{task.fields[said]}", markup=False),
        console=Console(stderr=True),
    )


@contextmanager
def _logging_above() -> Iterator[None]:
    """rich draws above its bar what is written to sys.stderr; handlers hold the stream of before."""
    handlers = [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)
