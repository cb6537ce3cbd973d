"""Another try, with growing pauses, until a deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.errors import ObjectUnreadable, Transient

DEADLINE_S = 120.0
"""Seconds after which no further attempt is made at one object."""
DRIVER_DEADLINE_S = 20.0
"""The same for listings and checks at the start, where a person waits for the answer."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 8.0

Result = TypeVar("Result")


def retry(attempt: Callable[[], Result], uri: str, deadline_s: float) -> Result:
    """Call `attempt` until it raises something else than `Transient`, or returns.

    Raises:
        ObjectUnreadable: no success within `deadline_s` seconds; the last cause is in the message.
    """
    start = time.monotonic()
    pause = _FIRST_PAUSE_S
    tries = 0
    while True:
        tries += 1
        try:
            return attempt()
        except Transient as error:
            # Full jitter: a fleet that failed together must not come back together.
            wait = pause * (0.5 + random.random())
            elapsed = time.monotonic() - start
            if elapsed + wait > deadline_s:
                message = f"{uri}: {error} (gave up after {tries} tries in {elapsed:.0f} s)"
                raise ObjectUnreadable(message) from error
        time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
