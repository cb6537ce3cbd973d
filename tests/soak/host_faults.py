"""Jobs on several hosts, and the faults of one host."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.fault_proxy import Trouble
from tests.soak.cluster import RunningCluster, kill
from tests.soak.hosts import S3, HostCluster, Network, worker_host
from tests.soak.killers import Fault, Killer
from tests.soak.rounds import SCORE, Round, run_round
from tests.soak.site import Site, node_key

BROKEN = 1
"""The worker that has the fault."""


@dataclass(kw_only=True)
class Hosts:
    """The running hosts."""

    site: Site
    network: Network
    cluster: HostCluster

    def run(
        self,
        output: str,
        flags: Sequence[str],
        killer: Killer | None,
        *,
        may_fail: bool = False,
        script: Path = SCORE,
    ) -> Round:
        """Run a job again and again until it exits with 0.

        Args:
            output: the name of the output, and of the log.
            flags: of the job.
            killer: makes the fault.
            may_fail: whether the command may end with exit code 1. Then it is given again.
            script: the job's file.
        """
        runs = iter(range(1000))
        return run_round(
            self.cluster,
            flags,
            killer=killer,
            log=self.site.logs / f"{output}.log",
            count_troubles=(lambda: next(runs)) if may_fail else (lambda: 0),
            script=script,
        )

    def fault(self, name: str, for_s: float, num_shards: Callable[[], int]) -> Fault:
        """Return a fault of the broken worker; for the names see `HostFaults`."""
        faults = HostFaults(self.site, self.network, self.cluster, BROKEN)
        return Fault(*faults.of(name), for_s=for_s, num_shards=num_shards)


class HostFaults:
    """What begins and what ends each fault of one worker's host.

    Args:
        site, network, cluster: of `open_hosts`.
        number: the worker.
    """

    def __init__(self, site: Site, network: Network, cluster: HostCluster, number: int) -> None:
        self._site, self._network, self._cluster, self._number = site, network, cluster, number
        self._stopped = 0

    def of(self, name: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return both for `cut`, `lost` (S3 does not answer), `denied`, `skewed` or `stopped`: its raylet."""
        host = worker_host(self._number)
        if name == "cut":
            return partial(self._network.pull_cable, host), partial(self._network.plug_cable, host)
        if name == "lost":
            return partial(self._network.lose, host, S3), partial(self._network.find, host, S3)
        if name == "stopped":
            return self._stop, lambda: os.kill(self._stopped, signal.SIGCONT)
        fault = {"denied": "403", "skewed": "skewed"}[name]
        troubles = self._site.proxy.troubles
        trouble = Trouble(fault=fault, requests=1_000_000, access_key=node_key(self._number))
        return partial(troubles.append, trouble), troubles.clear

    def _stop(self) -> None:
        self._stopped = self._cluster.raylet(self._number)
        os.kill(self._stopped, signal.SIGSTOP)


class LostHead:
    """A `Killer` of the machine of the head and the driver.

    Args:
        cluster: the cluster.
        is_time: returns something true when it shall be lost.
    """

    def __init__(self, cluster: HostCluster, is_time: Callable[[], object]) -> None:
        self._cluster, self._is_time = cluster, is_time
        self._lost = False

    def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> str | None:
        """See `Killer`."""
        if self._lost or not self._is_time():
            return None
        self._lost = True
        self._cluster.lose_node(0)
        kill(driver.pid)
        return "driver"
