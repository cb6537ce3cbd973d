"""Training on several hosts, one of which has a fault: the losses are those of an undisturbed run.

docs/operations.md has what was seen.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from pipeline.draw_scenes import draw_split
from tests.soak.host_faults import Hosts, LostHead
from tests.soak.hosts import open_hosts, why_not
from tests.soak.killers import Killer, ScriptedKiller
from tests.soak.rounds import TRAIN, Round

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]

ITERATIONS = 300
FLAGS = (
    "--preset modern --backbone tiny --weights none --proposals grid --max-proposals 200 --scale 96"
    " --fc-dim 32 --rois-per-image 32 --batch-size 4 --solver.images-per-pass 2 --gpus-per-worker 0"
    f" --num-workers 2 --min-workers 1 --iterations {ITERATIONS} --validate-every 20"
).split()
# Two workers add the gradients of two images each, one worker those of four: another order of addition.
TOLERANCE = 2e-2


@dataclass(kw_only=True)
class TrainingHosts(Hosts):
    """The running hosts, and the losses of a training without faults."""

    expected: list[float] = field(default_factory=list)

    def num_checkpoints(self, output: str) -> Callable[[], int]:
        """Return a function that counts the checkpoints."""

        def count() -> int:
            listed = self.site.client.list_objects_v2(
                Bucket=self.site.bucket, Prefix=f"{output}/train/checkpoint_", Delimiter="/"
            )
            return len(listed.get("CommonPrefixes", ()))

        return count

    def train(self, output: str, killer: Killer | None, *, may_fail: bool = False) -> Round:
        """Train, and compare all losses.

        Args:
            output: the name of the output.
            killer: makes the fault.
            may_fail: whether the command may end with exit code 1. Then it is given again.
        """
        log = self.site.logs / f"{output}.log"
        places = ("--data", "s3://soak/shapes", "--output", f"s3://soak/{output}")
        flags = [*places, *FLAGS]
        done = self.run(output, flags, killer, may_fail=may_fail, script=TRAIN)
        body = self.site.client.get_object(Bucket="soak", Key=f"{output}/metrics.json")["Body"]
        losses = [row["loss"] for row in json.loads(body.read())["steps"]]
        expected = self.expected or losses
        difference = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        (self.site.logs / f"{output}.seen").write_text(
            f"{output}: {done.seconds:.0f} s, codes {dict(done.codes)}, losses differ by {difference:.1e}\n"
        )
        assert done.violations == [], log.read_text()
        assert len(losses) == ITERATIONS
        assert difference < TOLERANCE
        self.expected = expected
        return done


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingHosts]:
    if reason := why_not():
        pytest.skip(reason)
    scenes = tmp_path_factory.mktemp("scenes")
    draw_split(scenes, "train", range(12), seed=0, size=(180, 220))
    with open_hosts(tmp_path_factory.mktemp("train-hosts")) as (site, network, cluster):
        for file in scenes.rglob("*"):
            if file.is_file():
                key = f"shapes/{file.relative_to(scenes)}"
                site.client.put_object(Bucket="soak", Key=key, Body=file.read_bytes())
        hosts = TrainingHosts(site=site, network=network, cluster=cluster)
        assert hosts.train("plain", None).codes == {0: 1}
        yield hosts


def test_two_workers_train(hosts: TrainingHosts) -> None:
    assert len(hosts.expected) == ITERATIONS


@pytest.mark.parametrize(
    ("fault", "for_s", "may_fail"),
    [
        ("cut", 45, False),
        ("lost", math.inf, True),
        ("denied", math.inf, True),
        ("stopped", 60, False),
    ],
)
def test_a_worker_with_a_fault(
    hosts: TrainingHosts, fault: str, for_s: float, may_fail: bool
) -> None:
    with hosts.fault(fault, for_s, hosts.num_checkpoints(fault)) as killer:
        hosts.train(fault, killer, may_fail=may_fail)


def test_the_gcs_is_killed(hosts: TrainingHosts) -> None:
    """The command ends with exit code 1. The same command goes on with a new cluster."""
    killer = ScriptedKiller([(1, "gcs")], hosts.num_checkpoints("gcs"))
    assert hosts.train("gcs", killer).codes == {1: 1, 0: 1}


def test_the_host_of_the_head_and_the_driver_ends(hosts: TrainingHosts) -> None:
    """The same command goes on with a new cluster."""
    head = LostHead(hosts.cluster, hosts.num_checkpoints("head"))
    done = hosts.train("head", head)
    assert done.codes == {-signal.SIGKILL: 1, 0: 1}
