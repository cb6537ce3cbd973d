"""Faults of one host of several: a head without CPUs, two workers, and an S3 server, each with its address.

docs/operations.md has what was seen.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.soak.host_faults import Hosts, LostHead
from tests.soak.hosts import open_hosts, why_not
from tests.soak.images import drawn_images
from tests.soak.killers import Killer, ScriptedKiller
from tests.soak.record import Row, compare
from tests.soak.rounds import Round

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]

NUM_IMAGES = 300
FLAGS = ("--shard-size", "10", "--batch-size", "4", "--gpus-per-worker", "0")


@dataclass(kw_only=True)
class ScoringHosts(Hosts):
    """The running hosts, and the rows of a run without faults."""

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
        with self.site.watch(output).watching() as watch:
            flags = self.site.flags(output, *FLAGS)
            done = self.run(output, flags, killer, may_fail=may_fail)
            first = compare(watch.rows(), self.images, self.expected)
            if first.not_ok:
                retry = ("--retry", "unreadable", "denied", "missing", "changed", "failed")
                again = self.run(output, [*flags, *retry], None)
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
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringHosts]:
    if reason := why_not():
        pytest.skip(reason)
    with open_hosts(tmp_path_factory.mktemp("hosts")) as (site, network, cluster):
        hosts = ScoringHosts(
            site=site, network=network, cluster=cluster, images=site.put(drawn_images(NUM_IMAGES))
        )
        assert hosts.score("plain", None).codes == {0: 1}
        yield hosts


def test_two_workers_score(hosts: ScoringHosts) -> None:
    """Each of them reads images. Both are other hosts than the driver's."""
    assert len(hosts.expected) == NUM_IMAGES


@pytest.mark.parametrize(
    ("fault", "for_s", "may_fail"),
    [
        ("cut", 45, False),
        ("lost", math.inf, True),
        ("denied", math.inf, True),
        ("skewed", math.inf, True),
        ("stopped", 60, False),
    ],
)
def test_a_worker_with_a_fault(
    hosts: ScoringHosts, fault: str, for_s: float, may_fail: bool
) -> None:
    with hosts.fault(fault, for_s, hosts.num_shards(fault)) as killer:
        hosts.score(fault, killer, may_fail=may_fail)


def test_the_gcs_is_killed(hosts: ScoringHosts) -> None:
    """The command ends with exit code 1. The same command goes on with a new cluster."""
    killer = ScriptedKiller([(3, "gcs")], hosts.num_shards("gcs"))
    assert hosts.score("gcs", killer).codes == {1: 1, 0: 1}


def test_the_host_of_the_head_and_the_driver_ends(hosts: ScoringHosts) -> None:
    """The same command goes on with a new cluster."""
    num_shards = hosts.num_shards("head")
    done = hosts.score("head", LostHead(hosts.cluster, lambda: num_shards() >= 3))
    assert done.codes == {-signal.SIGKILL: 1, 0: 1}
