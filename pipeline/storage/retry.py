"""Another try, with growing pauses, until a deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import ObjectUnreadable, StorageError

DEADLINE_S = 120.0
"""Seconds after which no further attempt is made at one object."""
DRIVER_DEADLINE_S = 20.0
"""The same for listings and checks at the start, where a person waits for the answer."""
OUTAGE_DEADLINE_S = 10.0
"""Instead of a longer one, once a call gave up and until one gets an answer. In an outage a run ends after
some hundred images (`pipeline.scoring.progress`), which at two minutes each, 8 at once, is half an hour a
reader."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 8.0

Result = TypeVar("Result")


class Transient(Exception):
    """One attempt failed in a way that another may not. It never leaves `pipeline.storage`."""


class Outage:
    """Whether the last thing known of a store is that a call gave up; shared by the threads of a process."""

    def __init__(self) -> None:
        self._gave_up = False

    def deadline_s(self, wanted_s: float) -> float:
        """How long a call that begins now had better wait."""
        return min(wanted_s, OUTAGE_DEADLINE_S) if self._gave_up else wanted_s

    def begin(self) -> None:
        """A call gave up."""
        self._gave_up = True

    def end(self) -> None:
        """The store answered, be it "no"."""
        self._gave_up = False


def retry(attempt: Callable[[], Result], uri: str, deadline_s: float, outage: Outage) -> Result:
    """Call `attempt` until it raises something else than `Transient`, or returns.

    Raises:
        ObjectUnreadable: no success within `deadline_s` seconds; the last cause is in the message.
    """
    start = time.monotonic()
    deadline_s = outage.deadline_s(deadline_s)
    pause = _FIRST_PAUSE_S
    tries = 0
    while True:
        tries += 1
        try:
            result = attempt()
        except Transient as error:
            # Full jitter: a fleet that failed together must not come back together.
            wait = pause * (0.5 + random.random())
            elapsed = time.monotonic() - start
            if elapsed + wait > deadline_s:
                outage.begin()
                message = f"{uri}: {error} (gave up after {tries} tries in {elapsed:.0f} s)"
                raise ObjectUnreadable(message) from error
        except StorageError:
            outage.end()
            raise
        else:
            outage.end()
            return result
        time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
