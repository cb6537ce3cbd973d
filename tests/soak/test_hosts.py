"""Faults of one host of several: a head without CPUs, two workers, and an S3 server, each with its address.

docs/operations.md has what was seen.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.fault_proxy import Trouble
from tests.soak.cluster import RunningCluster, kill
from tests.soak.hosts import (
    HostCluster,
    Network,
    find_s3,
    lose_s3,
    open_hosts,
    why_not,
    worker_host,
)
from tests.soak.images import drawn_images
from tests.soak.killers import Fault, Killer, ScriptedKiller
from tests.soak.record import Row, compare
from tests.soak.rounds import Round, run_round
from tests.soak.site import Site, node_key

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]

NUM_IMAGES = 300
FLAGS = ("--shard-size", "10", "--batch-size", "4", "--gpus-per-worker", "0")
BROKEN = 1
"""The worker that has the fault."""


@dataclass(kw_only=True)
class Hosts:
    """The running hosts, and the rows of a run without faults."""

    site: Site
    network: Network
    cluster: HostCluster
    images: list[str]
    expected: dict[str, Row] = field(default_factory=dict)

    def num_shards(self, output: str) -> Callable[[], int]:
        """Return a function that counts the shards."""
        watch = self.site.watch(output)

        def count() -> int:
            watch.look()
            return len(watch.etags)

        return count

    def score(self, output: str, killer: Killer | None, *, may_fail: bool = False) -> Round:
        """Score all images, and check the rows.

        Args:
            output: the name of the output.
            killer: makes the fault.
            may_fail: whether the command may end with exit code 1. Then it is given again.
        """
        log = self.site.logs / f"{output}.log"
        runs = iter(range(1000))
        with self.site.watch(output).watching() as watch:
            done = run_round(
                self.cluster,
                self.site.flags(output, *FLAGS),
                killer=killer,
                log=log,
                count_troubles=(lambda: next(runs)) if may_fail else (lambda: 0),
            )
            first = compare(watch.rows(), self.images, self.expected)
            if first.not_ok:
                retry = ("--retry", "unreadable", "denied", "missing", "changed", "failed")
                flags = self.site.flags(output, *FLAGS, *retry)
                again = run_round(self.cluster, flags, killer=None, log=log)
                done.violations += again.violations
        rows = {row["image_uri"]: row for row in watch.rows()}
        left = compare(watch.rows(), self.images, self.expected)
        (self.site.logs / f"{output}.seen").write_text(
            f"{output}: {done.seconds:.0f} s, codes {dict(done.codes)}, bad at first {first.not_ok}, {left}\n"
        )
        assert done.violations + watch.violations == [], log.read_text()
        assert left.violations() == [], log.read_text()
        self.expected = self.expected or rows
        return done


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    with open_hosts(tmp_path_factory.mktemp("hosts")) as (site, network, cluster):
        hosts = Hosts(
            site=site, network=network, cluster=cluster, images=site.put(drawn_images(NUM_IMAGES))
        )
        assert hosts.score("plain", None).codes == {0: 1}
        yield hosts


def test_two_workers_score(hosts: Hosts) -> None:
    """Each of them reads images. Both are other hosts than the driver's."""
    assert len(hosts.expected) == NUM_IMAGES


def test_a_worker_that_is_cut_off_for_45_s(hosts: Hosts) -> None:
    host = worker_host(BROKEN)
    fault = Fault(
        lambda: hosts.network.pull_cable(host),
        lambda: hosts.network.plug_cable(host),
        for_s=45,
        num_shards=hosts.num_shards("cut"),
    )
    try:
        hosts.score("cut", fault)
    finally:
        fault.close()


def test_a_worker_that_loses_s3(hosts: Hosts) -> None:
    fault = Fault(
        lambda: lose_s3(hosts.network, BROKEN),
        lambda: find_s3(hosts.network, BROKEN),
        for_s=math.inf,
        num_shards=hosts.num_shards("lost"),
    )
    try:
        hosts.score("lost", fault, may_fail=True)
    finally:
        fault.close()


def test_a_worker_that_s3_denies_everything(hosts: Hosts) -> None:
    denied = Trouble(fault="403", requests=1_000_000, access_key=node_key(BROKEN))
    fault = Fault(
        lambda: hosts.site.proxy.troubles.append(denied),
        hosts.site.proxy.troubles.clear,
        for_s=math.inf,
        num_shards=hosts.num_shards("denied"),
    )
    try:
        hosts.score("denied", fault, may_fail=True)
    finally:
        fault.close()


def test_a_worker_whose_clock_is_an_hour_off(hosts: Hosts) -> None:
    """S3 answers each of its requests RequestTimeTooSkewed, as it does from 15 minutes on."""
    skewed = Trouble(fault="skewed", requests=1_000_000, access_key=node_key(BROKEN))
    fault = Fault(
        lambda: hosts.site.proxy.troubles.append(skewed),
        hosts.site.proxy.troubles.clear,
        for_s=math.inf,
        num_shards=hosts.num_shards("skewed"),
    )
    try:
        hosts.score("skewed", fault, may_fail=True)
    finally:
        fault.close()


def test_a_raylet_that_stops_for_a_minute(hosts: Hosts) -> None:
    pids: list[int] = []

    def stop() -> None:
        pids.append(hosts.cluster.raylet(BROKEN))
        os.kill(pids[0], signal.SIGSTOP)

    def go_on() -> None:
        os.kill(pids[0], signal.SIGCONT)

    fault = Fault(stop, go_on, for_s=60, num_shards=hosts.num_shards("stopped"))
    try:
        hosts.score("stopped", fault)
    finally:
        fault.close()


def test_the_gcs_is_killed(hosts: Hosts) -> None:
    """The command ends with exit code 1. The same command goes on with a new cluster."""
    killer = ScriptedKiller([(3, "gcs")], hosts.num_shards("gcs"))
    assert hosts.score("gcs", killer).codes == {1: 1, 0: 1}


def test_the_host_of_the_head_and_the_driver_ends(hosts: Hosts) -> None:
    """The same command goes on with a new cluster."""
    num_shards, killed = hosts.num_shards("head"), []

    class Head:
        def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> str | None:
            if killed or num_shards() < 3:
                return None
            hosts.cluster.lose_node(0)
            kill(driver.pid)
            killed.append(driver.pid)
            return "driver"

    done = hosts.score("head", Head())
    assert done.codes == {-signal.SIGKILL: 1, 0: 1}
