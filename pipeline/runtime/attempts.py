"""Counts of the work that was begun and not finished: they tell which batch killed its process.

`pipeline.runtime.guard` uses them for images. A worker whose node cannot do a piece of work leaves it to
another node.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

import ray

from fastrcnn.gpu_errors import breaks_the_gpu
from pipeline.errors import JobError, one_line, text_of
from pipeline.runtime import cluster

logger = logging.getLogger(__name__)

_FEWEST_TRIES, _MOST_TRIES = 3, 30
"""Tries of a piece of work that nodes leave: so many at least, and at most."""
_LONGEST_S = 300.0
"""Seconds from the first try that a node left to the last one. A node that cannot reach the store waits two
minutes in each try; if the other nodes are full, each try comes to this node again."""
_LONGEST_PAUSE_S = 10.0
"""The last pieces of work may come to a node that leaves them again and again. A run then ends some
pauses later."""


class Attempts(Protocol):
    """Counts how often a piece of work was begun and not finished."""

    def begin(self, key: str) -> int:
        """Record that `key` begins. Return how often it was begun before and not finished."""

    def end(self, key: str) -> None:
        """Record that `key` is finished."""

    def end_with_next(self, key: str) -> None:
        """Record that `key` is finished, at the next `begin` of this process at the latest."""

    def cannot_continue(self, error: Exception) -> None:
        """Handle a process that lacks memory or whose CUDA context is broken."""

    def leave(self, key: str, error: Exception) -> NoReturn:
        """Leave a piece of work that this node cannot do, because of `error`, to another node."""


class AttemptLog:
    """The counts in one process."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._left: list[tuple[str, str, float]] = []

    def begin(self, key: str, ended: Sequence[str] = ()) -> int:
        """See `Attempts`. `ended` are pieces of work that the caller has finished before."""
        for finished in ended:
            self.end(finished)
        earlier = self._open.get(key, 0)
        self._open[key] = earlier + 1
        return earlier

    def end(self, key: str) -> None:
        """See `Attempts`."""
        self._open.pop(key, None)

    end_with_next = end

    def leave(self, key: str, error: Exception) -> NoReturn:
        """See `Attempts`. There is no other node."""
        raise error

    def leaves(self, key: str, node: str) -> tuple[list[str], int, float]:
        """Record that `node` cannot do a piece of work.

        Returns:
            The node of each such call for `key`, how many calls named `node`, and the seconds since the first
            call for `key`.
        """
        now = time.monotonic()  # of one process: the clocks of nodes may differ
        self._left.append((key, node, now))
        of_key = [(n, when) for k, n, when in self._left if k == key]
        of_node = sum(n == node for _, n, _ in self._left)
        return [n for n, _ in of_key], of_node, now - of_key[0][1]

    def cannot_continue(self, error: Exception) -> None:
        """Return if memory was lacking: one image alone needs less. Else raise the error.

        This is the caller's process, so it is not ended.
        """
        if breaks_the_gpu(text_of(error)):
            raise error


_ended: defaultdict[str, list[str]] = defaultdict(list)
"""What this process has finished since it began its last piece of work, by `SharedAttempts`."""


class SharedAttempts:
    """The counts in a Ray actor that outlives the workers. It can be pickled, so stages can hold it."""

    def __init__(self) -> None:
        self._name = uuid.uuid4().hex
        # If its node dies, the counts start again at 0: an image may then be tried more often, but not for
        # ever.
        restarted = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        self._actor: Any = restarted(AttemptLog).remote()

    def begin(self, key: str) -> int:
        """See `Attempts`. Waits until it is recorded, because the work may kill this process."""
        ended = _ended.pop(self._name, [])
        return int(ray.get(self._actor.begin.remote(key, ended)))

    def end(self, key: str) -> None:
        """See `Attempts`. Does not wait."""
        self._actor.end.remote(key)

    def end_with_next(self, key: str) -> None:
        """See `Attempts`. The next `begin` sends it: one message a batch, as one actor gets those of all
        workers."""
        _ended[self._name].append(key)

    def leave(self, key: str, error: Exception) -> NoReturn:
        """See `Attempts`. Ends this worker: Ray gives its task to a worker of any node that is free.

        A node that fails at once is free at once, and would get every task. So it waits, longer for each
        task that it leaves.

        Raises:
            JobError: every node that works has failed, or `_MOST_TRIES` tries have, or some tries in
                `_LONGEST_S`.
        """
        here, working = cluster.this_node(), cluster.working_nodes()
        nodes, left_here, seconds = ray.get(self._actor.leaves.remote(key, here))
        everywhere = working <= set(nodes) or seconds >= _LONGEST_S
        if (everywhere and len(nodes) >= _FEWEST_TRIES) or len(nodes) >= _MOST_TRIES:
            raise JobError(
                f"no node can read what the run needs, after {len(nodes)} tries on {len(set(nodes))} of"
                f" {len(working)} nodes ({', '.join(sorted(set(nodes)))}): {one_line(error)}. Run the same"
                " command again when they can"
            ) from error
        logger.warning("node %s: %s; another node tries", here, one_line(error))
        time.sleep(min(2**left_here, _LONGEST_PAUSE_S))
        os._exit(1)

    def cannot_continue(self, error: Exception) -> None:
        """See `Attempts`. Ends this worker, as the kernel would.

        The code of Ray needs memory too: a worker without memory may neither answer nor die (seen with
        `prlimit --as`).
        """
        logger.error("this worker ends, and another one takes its batch: %s", one_line(error))
        os._exit(1)
