"""An image that kills its process is tried three times, then it is a row; the job does not loop for ever.

Ray Data gives a dead worker's batch to the next worker, without end. So a worker reports which batch it
begins and when the batch is done. A worker that gets a batch which was begun and never done knows that a
process died with it, because of the batch or of something else. It then takes the images one at a time and
reports each of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa
import ray

logger = logging.getLogger(__name__)

ALONE = 2
"""Tries of an image alone, after one try in its batch."""
_NO_MEMORY = "DefaultCPUAllocator"
"""Torch has no exception class for a CPU without memory: `c10/core/impl/alloc_cpu.cpp` writes this."""


class Attempts(Protocol):
    """Counts how often a piece of work was begun and not ended."""

    def begin(self, key: str) -> int:
        """Note that `key` begins; return how often it began before and did not end."""

    def end(self, key: str) -> None:
        """Note that `key` is done."""

    def out_of_memory(self, error: Exception) -> None:
        """Note that the process did not get the memory that a piece of work needs."""


class AttemptLog:
    """The counts, in one process."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def begin(self, key: str) -> int:
        """See `Attempts`."""
        earlier = self._open.get(key, 0)
        self._open[key] = earlier + 1
        return earlier

    def end(self, key: str) -> None:
        """See `Attempts`."""
        self._open.pop(key, None)

    def out_of_memory(self, error: Exception) -> None:
        """Do nothing: this is the caller's process, and the exception tells the caller."""


class SharedAttempts:
    """The counts in an actor that outlives the workers; pickles, so that stages can carry it."""

    def __init__(self) -> None:
        # If its node dies, the counts start again at 0: an image may be tried more often, but not for ever.
        survives = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        self._actor: Any = survives(AttemptLog).remote()

    def begin(self, key: str) -> int:
        """See `Attempts`. Waits for the answer: the beginning must be noted before the work can kill us."""
        return int(ray.get(self._actor.begin.remote(key)))

    def end(self, key: str) -> None:
        """See `Attempts`. Does not wait."""
        self._actor.end.remote(key)

    def out_of_memory(self, error: Exception) -> None:
        """See `Attempts`. Ends this worker, as the kernel would. Ray's code needs memory too: a worker
        without memory may neither answer nor die (seen with `prlimit --as`).
        """
        logger.error("out of memory, another process takes over: %s", error)
        os._exit(1)


def attempt(
    rows: pa.Table,
    work: Callable[[pa.Table], pa.Table],
    fail: Callable[[pa.Table, str], pa.Table],
    *,
    stage: str,
    attempts: Attempts,
    alone: Callable[[pa.Table], pa.Table] | None = None,
) -> pa.Table:
    """Do `work` on a batch; image by image where a process died with the batch.

    Args:
        rows: the batch, with a column image_uri.
        work: rows -> as many result rows.
        fail: one row and a cause -> its result row, for an image that was tried `1 + ALONE` times.
        stage: keeps the batches of two stages apart.
        attempts: the counts, shared by the workers.
        alone: what is done, with more care, to each image of a batch with which a process died. None means
            `work`.
    """
    if rows.num_rows == 0:
        return work(rows)
    careful = alone or work
    with _memory_watched(attempts):
        batch = f"{stage} {rows.num_rows} {rows['image_uri'][0].as_py()}"
        if attempts.begin(batch) == 0:
            results = work(rows)
        else:
            single = [
                _attempt_alone(rows.slice(i, 1), careful, fail, stage=stage, attempts=attempts)
                for i in range(rows.num_rows)
            ]
            results = pa.concat_tables(single)
        attempts.end(batch)
    return results


@contextmanager
def _memory_watched(attempts: Attempts) -> Iterator[None]:
    """Report to `attempts` when the work does not get its memory: a worker then ends itself."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or _NO_MEMORY in str(error):
            attempts.out_of_memory(error)
        raise


def _attempt_alone(
    row: pa.Table,
    work: Callable[[pa.Table], pa.Table],
    fail: Callable[[pa.Table, str], pa.Table],
    *,
    stage: str,
    attempts: Attempts,
) -> pa.Table:
    key = f"{stage} alone {row['image_uri'][0].as_py()}"
    died = attempts.begin(key)
    if died >= ALONE:
        attempts.end(key)
        return fail(row, f"its process died each of {1 + died} times at stage {stage!r}")
    result = work(row)
    attempts.end(key)
    return result
