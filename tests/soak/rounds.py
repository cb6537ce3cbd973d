"""One round: the same job until it exits with 0, while its processes are killed."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import CHECKOUT
from tests.soak.cluster import RunningCluster
from tests.soak.killers import Killer

SCORE, TRAIN = CHECKOUT / "jobs" / "score_bucket.py", CHECKOUT / "jobs" / "train.py"
LONGEST_RUN_S = 900.0
"""Seconds that one run of the command may take; a longer one hangs."""
MOST_RUNS = 30
_CODES = {"driver": -signal.SIGKILL, "sigterm": 128 + signal.SIGTERM, "gcs": 1}
"""The promised exit code after each kind of kill that the command notices."""


@dataclass(kw_only=True, slots=True)
class Round:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[int | None] = field(default_factory=Counter)
    """How often each exit code came. None: the job had to be killed, because it did not end."""
    runs: int = 0
    grown: bool = False
    """Whether the bucket has grown, and the second driver was started."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


def run_round(
    cluster: RunningCluster,
    flags: Sequence[str],
    *,
    killer: Killer | None,
    log: Path,
    grow: Callable[[], bool] | None = None,
    count_troubles: Callable[[], int] = lambda: 0,
    script: Path = SCORE,
) -> Round:
    """Run a job with `flags` on the cluster again and again until it exits with 0.

    Args:
        cluster: the cluster of the jobs.
        flags: the flags of the command.
        killer: kills processes meanwhile.
        log: a file for what the jobs write.
        grow: called until it has put more images and returns True. Then a second driver starts.
        count_troubles: returns how many requests had a trouble of the store until now. A run in which this
            number grows may end with exit code 1.
        script: the job's file, `SCORE` or `TRAIN`.

    Exit codes that `_CODES` does not name after the kills of a run are violations, as is a run that takes
    `LONGEST_RUN_S`.
    """
    done = Round(grown=grow is None)
    started = time.monotonic()
    with log.open("ab") as output:
        while True:
            done.runs += 1
            before = count_troubles()
            codes, killed = _run(cluster, flags, killer, output.fileno(), done, grow, script)
            done.kills.update(killed)
            done.codes.update(codes)
            expected = {0, *(_CODES[kind] for kind in killed if kind in _CODES)}
            if count_troubles() > before:
                expected.add(1)
            if wrong := [code for code in codes if code not in expected]:
                done.violations.append(
                    f"run {done.runs} exited with {wrong} after the kills {killed}"
                )
            if set(codes) == {0} and done.grown:
                break
            if done.runs == MOST_RUNS:
                done.violations.append(f"not done after {MOST_RUNS} runs")
                break
            cluster.repair()
    cluster.repair()
    done.seconds = time.monotonic() - started
    return done


def _run(
    cluster: RunningCluster,
    flags: Sequence[str],
    killer: Killer | None,
    output: int,
    done: Round,
    grow: Callable[[], bool] | None,
    script: Path,
) -> tuple[list[int | None], list[str]]:
    """Return the exit codes of the drivers of one run, and the kinds of the processes that were killed."""
    killed: list[str] = []
    deadline = time.monotonic() + LONGEST_RUN_S
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.address}
    with contextlib.ExitStack() as stack:
        start = functools.partial(job, flags, environment, output, cluster.enter, script)
        drivers = [stack.enter_context(start())]
        while (alive := [driver for driver in drivers if driver.poll() is None]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.2)
            if killer and (kind := killer.strike(cluster, alive[len(killed) % len(alive)])):
                killed.append(kind)
            if grow and not done.grown and grow():
                done.grown = True
                drivers.append(stack.enter_context(start()))
            if "gcs" not in killed:
                cluster.repair()
        return [driver.poll() for driver in drivers], killed


@contextlib.contextmanager
def job(
    flags: Sequence[str],
    environment: dict[str, str],
    output: int,
    enter: Sequence[str] = (),
    script: Path = SCORE,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a job as a user does. Kill it at the end of the context if it still runs."""
    process = subprocess.Popen(
        [*enter, sys.executable, str(script), *flags],
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
