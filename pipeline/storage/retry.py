"""Repeats a failed request with growing pauses, until a deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import ObjectUnreadable, StorageError

DEADLINE_S = 120.0
"""Seconds after which no further attempt is made for one object."""
DRIVER_DEADLINE_S = 20.0
"""The same for listings and checks at the start of a job, while a person waits for the answer."""
OUTAGE_DEADLINE_S = 10.0
"""Deadline during an outage: after one call gave up, until another gets an answer. In an outage a run ends
after about a hundred images (`pipeline.scoring.progress`). With two minutes each and 8 at once, that would
take every reader half an hour."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 8.0

Result = TypeVar("Result")


class Transient(Exception):
    """One attempt failed, but the next may succeed. This exception never leaves `pipeline.storage`."""


class Outage:
    """Remembers whether the last call to a store gave up. The threads of a process share it."""

    def __init__(self) -> None:
        self._gave_up = False

    def deadline_s(self, wanted_s: float) -> float:
        """Return the deadline for a call that begins now, in seconds; shorter in an outage."""
        return min(wanted_s, OUTAGE_DEADLINE_S) if self._gave_up else wanted_s

    def begin(self) -> None:
        """Note that a call gave up."""
        self._gave_up = True

    def end(self) -> None:
        """Note that the store answered, even with an error about the object."""
        self._gave_up = False


def retry(attempt: Callable[[], Result], uri: str, deadline_s: float, outage: Outage) -> Result:
    """Call `attempt` until it returns or raises an exception other than `Transient`.

    Args:
        attempt: makes one request.
        uri: the object, for the message.
        deadline_s: seconds after which no further attempt begins.
        outage: shortens the deadline if the store gave no answer before.

    Raises:
        ObjectUnreadable: no attempt succeeded before the deadline; the message has the last cause.
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
            # A random pause: workers that failed at the same time must not try again at the same time.
            wait = pause * (0.5 + random.random())
            elapsed = time.monotonic() - start
            if elapsed + wait > deadline_s:
                outage.begin()
                message = f"{uri}: {error} (gave up after {tries} attempts in {elapsed:.0f} s)"
                raise ObjectUnreadable(message) from error
        except StorageError:
            outage.end()
            raise
        else:
            outage.end()
            return result
        time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
