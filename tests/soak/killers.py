"""Which process is killed, and when."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tests.soak.cluster import RunningCluster

WEIGHTS = {
    "detector": 0.28,
    "worker": 0.25,
    "helper": 0.05,
    "raylet": 0.15,
    "driver": 0.10,
    "sigterm": 0.06,
    "gcs": 0.05,
    "decoder": 0.06,
}
"""Share of each kind of kill: `cluster.KINDS`, SIGKILL of the driver, and SIGTERM of the driver."""
ALWAYS = ("sigterm", "decoder", "driver")
"""Kinds of which each round has one at least."""
MOST = {"gcs": 1}
"""Kills of one kind in a round: a cluster needs half a minute to come back."""
PAUSE_S = 8.0
"""Between two, on average. A worker is 5 to 15 s in starting on two busy cores: at 5 s none ever starts."""
FOR_S = 240.0
"""Seconds of a round with kills; then it is let finish."""


class Killer(Protocol):
    """Kills processes of a round."""

    def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> str | None:
        """Kill one process if it is time to. Return its kind."""


class RandomKiller:
    """Kills a process every few seconds, of a kind chosen by chance.

    Args:
        seed: seed of the chance.
        weights: share of each kind.
        most: largest number of kills of a kind.
        pause_s: seconds between two kills, on average.
        for_s: seconds from now until the last kill that is not one of `always`.
        always: kinds that get a kill in any case, as soon as there is such a process.
    """

    def __init__(
        self,
        seed: int,
        weights: Mapping[str, float] = WEIGHTS,
        most: Mapping[str, int] = MOST,
        pause_s: float = PAUSE_S,
        for_s: float = FOR_S,
        always: Sequence[str] = ALWAYS,
    ) -> None:
        self._random = random.Random(seed)
        self._weights = weights
        self._most = most
        self._pause_s = pause_s
        self._until = time.monotonic() + for_s
        self._always = self._random.sample(always, len(always))
        self._next = 0.0
        self._counts: Counter[str] = Counter()
        self._wait()

    def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> str | None:
        """See `Killer`."""
        now = time.monotonic()
        if now < self._next or (now > self._until and not self._always):
            return None
        self._wait()
        victims = {**cluster.processes(), "driver": [driver.pid], "sigterm": [driver.pid]}
        kind = self._choose(victims)
        if kind is None or self._counts[kind] >= self._most.get(kind, 1000):
            return None
        if driver.poll() is not None:
            return None
        if kind == "sigterm":
            driver.terminate()
        else:
            cluster.kill(self._random.choice(victims[kind]))
        if kind in self._always:
            self._always.remove(kind)
        self._counts[kind] += 1
        return kind

    def _choose(self, victims: Mapping[str, Sequence[int]]) -> str | None:
        """Choose the kind of the next kill: every second time one of `always`, if there is a process."""
        due = [kind for kind in self._always if victims[kind]]
        late = time.monotonic() > self._until
        if due and (late or self._random.random() < 0.5):
            return due[0]
        if late:
            return None
        (kind,) = self._random.choices(list(self._weights), list(self._weights.values()))
        return kind if victims[kind] else None

    def _wait(self) -> None:
        self._next = time.monotonic() + self._random.uniform(0.5, 1.5) * self._pause_s


class ScriptedKiller:
    """Kills one process for each entry of a list, in order, once enough shards exist.

    Args:
        script: the entries, each (number of shards, kind).
        count_shards: returns the number of shards that exist.
    """

    def __init__(self, script: Sequence[tuple[int, str]], count_shards: Callable[[], int]) -> None:
        self._script = list(script)
        self._count_shards = count_shards

    def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> str | None:
        """See `Killer`."""
        if not self._script or self._count_shards() < self._script[0][0]:
            return None
        kind = self._script[0][1]
        victims = [driver.pid] if kind == "driver" else cluster.processes()[kind]
        if not victims or driver.poll() is not None:
            return None
        self._script.pop(0)
        cluster.kill(victims[0])
        return kind


class Fault:
    """A fault that is no kill, as a context. It begins when the first shard, or checkpoint, is there.

    Args:
        begin: begins it.
        end: ends it.
        for_s: its seconds. Infinite: until the command has ended.
        num_shards: counts them.
    """

    def __init__(
        self,
        begin: Callable[[], None],
        end: Callable[[], None],
        *,
        for_s: float,
        num_shards: Callable[[], int],
    ) -> None:
        self._begin, self._end, self._for_s, self._num_shards = begin, end, for_s, num_shards
        self._begun: float | None = None
        self._driver = 0
        self.is_over = False

    def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> None:
        """See `Killer`. It kills nothing."""
        now = time.monotonic()
        if self._begun is None:
            if self._num_shards():
                self._begin()
                self._begun, self._driver = now, driver.pid
        elif now > self._begun + self._for_s or driver.pid != self._driver:
            self.close()

    def __enter__(self) -> Fault:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the fault."""
        if self._begun is not None and not self.is_over:
            self.is_over = True
            self._end()
