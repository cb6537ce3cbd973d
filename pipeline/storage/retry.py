"""Repeats a failed request with growing pauses, until a deadline.

Driver and workers wait equally long, for listings, reads and writes: an outage that a worker survives must
not end the driver.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import ObjectUnreachable, StorageError

logger = logging.getLogger(__name__)

DEADLINE_S = 120.0
"""Seconds after which no further attempt is made for one object."""
OUTAGE_DEADLINE_S = 10.0
"""Deadline during an outage: after one call gave up, until another gets an answer. In an outage a run ends
after about a hundred images (`pipeline.scoring.progress`). With two minutes each and 8 at once, that would
take every reader half an hour."""
_SAY_AFTER_S = 10.0
"""After this time without a good answer, the log says that the job waits."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 8.0

Result = TypeVar("Result")


class Transient(Exception):
    """One attempt failed, but the next may succeed. This exception never leaves `pipeline.storage`."""


class Outage:
    """Remembers whether the last call to a store gave up. The threads of a process share it."""

    def __init__(self) -> None:
        self._gave_up = False
        self._said = False

    def deadline_s(self, wanted_s: float) -> float:
        """Return the deadline for a call that begins now, in seconds; shorter in an outage."""
        return min(wanted_s, OUTAGE_DEADLINE_S) if self._gave_up else wanted_s

    def begin(self) -> None:
        """Note that a call gave up."""
        self._gave_up = True

    def end(self) -> None:
        """Note that the store answered, even with an error about the object."""
        self._gave_up = self._said = False

    def say(self, uri: str, cause: object, elapsed_s: float, deadline_s: float) -> None:
        """Log once an outage that a request waits."""
        if not self._said:
            self._said = True
            logger.warning(
                "%s: no good answer for %.0f s (%s); the job waits up to %g s",
                uri,
                elapsed_s,
                cause,
                deadline_s,
            )


def retry(attempt: Callable[[], Result], uri: str, deadline_s: float, outage: Outage) -> Result:
    """Call `attempt` until it returns or raises an exception other than `Transient`.

    Args:
        attempt: makes one request.
        uri: the object, for the message.
        deadline_s: seconds after which no further attempt begins.
        outage: shortens the deadline if the store gave no answer before.

    Raises:
        ObjectUnreachable: no attempt succeeded before the deadline; the message has the last cause.
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
                raise ObjectUnreachable(message) from error
            if elapsed > _SAY_AFTER_S:
                outage.say(uri, error, elapsed, deadline_s)
        except StorageError:
            outage.end()
            raise
        else:
            outage.end()
            return result
        time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
