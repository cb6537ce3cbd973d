"""One training an output: a command holds a lease while it trains.

    <output>/train/lease-000001.json    {"holder": "4f1c...", "host": "node-7", "pid": 812, "ended": false}

Each number is created exclusively, and the holder renews the lease every `RENEW_S` seconds by the next
number. A clean end is a number too, with `ended`. A command that finds a lease waits until the store says
that it is `EXPIRES_S` old, then takes the next number: a killed training is continued after a minute at most.
If the lease is renewed meanwhile, its holder lives, and the second command is refused. A holder that was
stopped for longer than that, such as a laptop that slept, finds its next number taken and ends.

Old numbers are deleted where the role may delete; else they stay, 150 bytes each.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from pipeline import storage
from pipeline.errors import JobError, NotAFile, ObjectDenied, ObjectMissing, StorageError, UserError
from pipeline.runtime import ending

logger = logging.getLogger(__name__)

RENEW_S = 20.0
EXPIRES_S = 60.0
_LOOK_EVERY_S = 2.0
_KEPT = 3
"""Newest numbers that are not deleted. A command that has just listed a number can still read it."""
_NAME = re.compile(r"lease-(\d{6,})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lease:
    """The newest number of an output."""

    number: int
    ended: bool
    holder: str
    """Host and process, for messages."""


class TrainingLease:
    """The lease of an output, held inside the context.

    Args:
        output: the --output of the training.

    Raises:
        JobError: on entry, if another command trains into this output; inside the context, if another command
            took the lease because this process was stopped for a minute.
        UserError: a folder or a broken link has the name of a lease.
        StorageError: the store did not answer.
    """

    def __init__(
        self, output: str, *, renew_s: float = RENEW_S, expires_s: float = EXPIRES_S
    ) -> None:
        self._output = storage.absolute(output)
        self._renew_s, self._expires_s = renew_s, expires_s
        self._id = uuid.uuid4().hex
        self._number = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._may_delete = True
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._number = self._wait() + 1
        if not self._create(self._number, ended=False):
            raise self._refused(self._latest())
        self._thread.start()
        self._stack.enter_context(ending.at_end(self._end))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._end()
        if self._lost is not None:
            raise JobError(self._lost)

    def _wait(self) -> int:
        """Wait until no other command holds the lease, and return the newest number.

        Raises:
            JobError: the lease was renewed meanwhile.
        """
        found = self._latest()
        if found is None or found.ended:
            return found.number if found else 0
        age_s = storage.age_s(self._uri(found.number)) or 0.0
        left = self._expires_s - max(0.0, age_s)
        if left > 0:
            logger.info(
                "%s may train into %s. Waiting up to %.0f s for it to end",
                found.holder,
                self._output,
                left,
            )
        deadline = time.monotonic() + left
        while True:
            newer = self._latest()
            if newer is not None and newer.number > found.number:
                if newer.ended:
                    return newer.number
                raise self._refused(newer)
            if time.monotonic() >= deadline:
                return found.number
            time.sleep(min(_LOOK_EVERY_S, self._expires_s / 10))

    def _refused(self, found: _Lease | None) -> JobError:
        holder = found.holder if found else "another command"
        return JobError(
            f"{holder} trains into {self._output} and has renewed its lease. Wait until it has ended and run"
            " the same command again, or give another --output"
        )

    def _keep(self) -> None:
        """Renew the lease until the end."""
        while not self._stop.wait(self._renew_s):
            try:
                with self._lock:
                    self._renew()
            except (StorageError, UserError) as error:
                logger.warning("the lease of the training was not renewed: %s", error)
            if self._lost is not None:
                ending.end_job(1, f"failed: {self._lost}")
                return

    def _renew(self) -> None:
        number = self._number + 1
        if not self._create(number, ended=False):
            self._lose()
            return
        self._number = number
        if self._may_delete:
            # The numbers after ours may have been created and deleted while this process was stopped.
            if max(self._numbers(), default=0) > number:
                self._lose()
            else:
                self._delete_old()

    def _lose(self) -> None:
        self._lost = (
            f"another command trains into {self._output} now, because this one was stopped for more than"
            f" {self._expires_s:g} s. Run the same command again when that one has ended"
        )

    def _end(self) -> None:
        """Give the lease back, so that the next command need not wait."""
        self._stop.set()
        with self._lock:
            if self._number == 0 or self._lost is not None:
                return
            try:
                self._create(self._number + 1, ended=True)
            except (StorageError, UserError) as error:
                logger.warning("the lease of the training was not given back: %s", error)
            self._number = 0

    def _create(self, number: int, *, ended: bool) -> bool:
        described: dict[str, Any] = {
            "holder": self._id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "ended": ended,
        }
        return storage.create_bytes(self._uri(number), json.dumps(described).encode())

    def _latest(self) -> _Lease | None:
        """Read the newest number. None if there is none."""
        while numbers := self._numbers():
            uri = self._uri(max(numbers))
            try:
                described = json.loads(storage.read_bytes(uri))
            except NotAFile as error:
                raise error.in_the_way() from error
            except ObjectMissing:
                continue  # renewed and deleted since it was listed
            except ValueError:
                described = None  # cut short, as by a full disk
            return _lease(max(numbers), described)
        return None

    def _numbers(self) -> list[int]:
        start = storage.join(self._output, "train", "lease-")
        names = (storage.basename(info.uri) for info in storage.list_prefix(start))
        return [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]

    def _delete_old(self) -> None:
        try:
            for number in self._numbers():
                if number <= self._number - _KEPT:
                    storage.delete(self._uri(number))
        except ObjectDenied:
            self._may_delete = False

    def _uri(self, number: int) -> str:
        return storage.join(self._output, "train", f"lease-{number:06d}.json")


def _lease(number: int, described: object) -> _Lease:
    """Make a lease of the JSON in its object. One that is damaged counts as held until it expires."""
    match described:
        case {"ended": bool(ended), "pid": pid, "host": host}:
            return _Lease(number=number, ended=ended, holder=f"process {pid} on {host}")
    return _Lease(number=number, ended=False, holder="an unknown process")
