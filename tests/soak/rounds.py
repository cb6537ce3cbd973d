"""One round: the same command until it exits with 0, while its processes are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import CHECKOUT
from tests.soak.cluster import RunningCluster
from tests.soak.killers import Killer

JOB = CHECKOUT / "jobs" / "score_bucket.py"
LONGEST_RUN_S = 900.0
"""Seconds that one run of the command may take; a longer one hangs."""
MOST_RUNS = 30


@dataclass(kw_only=True, slots=True)
class Round:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


def run_round(
    cluster: RunningCluster, flags: Sequence[str], *, killer: Killer | None, log: Path
) -> Round:
    """Run jobs/score_bucket.py with `flags` on the cluster again and again until it exits with 0.

    An exit is expected when the driver or the GCS was killed: -9 in the one case, 1 in the other. Every other
    one is a violation, as is a run that takes `LONGEST_RUN_S`.
    """
    done = Round()
    started = time.monotonic()
    with log.open("ab") as output:
        while True:
            done.runs += 1
            code, killed = _run(cluster, flags, killer, output.fileno())
            done.kills.update(killed)
            if code == 0:
                break
            expected = {"driver": -signal.SIGKILL, "gcs": 1}
            if code not in [expected.get(kind) for kind in killed]:
                done.violations.append(
                    f"run {done.runs} exited with {code} after the kills {killed}"
                )
            if done.runs == MOST_RUNS:
                done.violations.append(f"not done after {MOST_RUNS} runs")
                break
            cluster.mend()
    cluster.mend()
    done.seconds = time.monotonic() - started
    return done


def _run(
    cluster: RunningCluster, flags: Sequence[str], killer: Killer | None, output: int
) -> tuple[int | None, list[str]]:
    """Exit code of one run (None: it had to be ended), and what was killed during it."""
    killed: list[str] = []
    deadline = time.monotonic() + LONGEST_RUN_S
    with job(flags, {**cluster.environment, "RAY_ADDRESS": cluster.address}, output) as driver:
        while driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if killer and (kind := killer.strike(cluster, driver)):
                killed.append(kind)
            if "gcs" not in killed:
                cluster.mend()
        return driver.poll(), killed


@contextlib.contextmanager
def job(
    flags: Sequence[str], environment: dict[str, str], output: int
) -> Iterator[subprocess.Popen[bytes]]:
    """jobs/score_bucket.py, as a user starts it; killed on leaving, should it still run."""
    process = subprocess.Popen(
        [sys.executable, str(JOB), *flags],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
