"""Who is shot, and when."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tests.soak.cluster import RunningCluster

WEIGHTS = {
    "detector": 0.33,
    "worker": 0.27,
    "helper": 0.05,
    "raylet": 0.15,
    "driver": 0.15,
    "gcs": 0.05,
}
"""Kills of each kind of process: `cluster.KINDS`, and the driver."""
MOST = {"gcs": 1}
"""Kills of one kind in a round: a cluster needs half a minute to come back."""
PAUSE_S = 8.0
"""Between two, on average. A worker is 5 to 15 s in starting on two busy cores: at 5 s none ever starts."""
FOR_S = 240.0
"""Seconds of a round with kills; then it is let finish."""


class Killer(Protocol):
    """Kills processes of a round."""

    def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> str | None:
        """Kill one if it is time to; its kind."""


class RandomKiller:
    """One every few seconds, of a kind chosen by chance.

    Args:
        seed: of the chance.
        weights: of each kind.
        most: of a kind.
        pause_s: between two, on average.
        for_s: seconds from now.
    """

    def __init__(
        self,
        seed: int,
        weights: Mapping[str, float] = WEIGHTS,
        most: Mapping[str, int] = MOST,
        pause_s: float = PAUSE_S,
        for_s: float = FOR_S,
    ) -> None:
        self._random = random.Random(seed)
        self._weights = weights
        self._most = most
        self._pause_s = pause_s
        self._until = time.monotonic() + for_s
        self._next = 0.0
        self._counts: Counter[str] = Counter()
        self._wait()

    def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> str | None:
        """See `Killer`."""
        if not self._next < time.monotonic() < self._until:
            return None
        self._wait()
        (kind,) = self._random.choices(list(self._weights), list(self._weights.values()))
        victims = {**cluster.processes(), "driver": [driver.pid]}[kind]
        if not victims or self._counts[kind] >= self._most.get(kind, 1000):
            return None
        if driver.poll() is not None:
            return None
        cluster.kill(self._random.choice(victims))
        self._counts[kind] += 1
        return kind

    def _wait(self) -> None:
        self._next = time.monotonic() + self._random.uniform(0.5, 1.5) * self._pause_s


class ScriptedKiller:
    """One of each kind of a list, in order, each once so many shards are there.

    Args:
        script: (shards, kind) each.
        count_shards: how many there are now.
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
