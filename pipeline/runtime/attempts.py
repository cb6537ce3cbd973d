"""Stops trying an image that kills its process three times; the image then gets a row with status `failed`.

Ray Data gives the batch of a dead worker to the next worker, without a limit. So a worker reports when it
begins a batch and when it has finished it. If a worker gets a batch that was begun and never finished, a
process died with this batch, because of the batch or for another reason. The worker then processes the images
one at a time and reports each of them.
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
"""How often an image is tried alone, after it was tried once in its batch."""
_NO_MEMORY = "DefaultCPUAllocator"
"""Text of torch's error when the CPU has no memory left. Torch has no exception class for it; the text comes
from `c10/core/impl/alloc_cpu.cpp`."""


class Attempts(Protocol):
    """Counts how often a piece of work was begun and not finished."""

    def begin(self, key: str) -> int:
        """Record that `key` begins. Return how often it was begun before and not finished."""

    def end(self, key: str) -> None:
        """Record that `key` is finished."""

    def out_of_memory(self, error: Exception) -> None:
        """Handle a process that did not get the memory for a piece of work."""


class AttemptLog:
    """The counts in one process."""

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
    """The counts in a Ray actor that outlives the workers. It can be pickled, so stages can hold it."""

    def __init__(self) -> None:
        # If its node dies, the counts start again at 0: an image may then be tried more often, but not for
        # ever.
        restarted = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        self._actor: Any = restarted(AttemptLog).remote()

    def begin(self, key: str) -> int:
        """See `Attempts`. Waits until it is recorded, because the work may kill this process."""
        return int(ray.get(self._actor.begin.remote(key)))

    def end(self, key: str) -> None:
        """See `Attempts`. Does not wait."""
        self._actor.end.remote(key)

    def out_of_memory(self, error: Exception) -> None:
        """See `Attempts`. Ends this worker, as the kernel would.

        The code of Ray needs memory too: a worker without memory may neither answer nor die (seen with
        `prlimit --as`).
        """
        logger.error("out of memory; this worker ends and another one takes its batch: %s", error)
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
    """Do `work` on a batch, or image by image if a process died with this batch before.

    Args:
        rows: the batch, with a column image_uri.
        work: turns rows into as many result rows.
        fail: turns one row and a cause into a result row, for an image that was tried `1 + ALONE` times.
        stage: the name of the stage; batches of different stages are counted separately.
        attempts: the counts, shared by the workers.
        alone: is called instead of `work` for each image of a batch with which a process died, and takes more
            care. None means `work`.

    Returns:
        The result rows, one for each row of the batch.
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
