"""The rows of the fault matrix that need a separate cluster: minutes each, so `make soak` only.

docs/operations.md has the whole table.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.soak.cluster import KINDS, RunningCluster
from tests.soak.images import drawn_images
from tests.soak.killers import Killer, ScriptedKiller
from tests.soak.record import compare
from tests.soak.rounds import Round, job, run_round
from tests.soak.site import RATES, Site, open_site

pytestmark = pytest.mark.soak

NUM_IMAGES = 260
FLAGS = ("--shard-size", "10", "--batch-size", "4")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two nodes and NUM_IMAGES images, for all tests here that break nothing for good."""
    with open_site(tmp_path_factory.mktemp("site"), 2) as site:
        site.put(drawn_images(NUM_IMAGES))
        yield site


def score(
    site: Site, output: str, killer: Killer | None = None, flags: Sequence[str] = FLAGS
) -> tuple[Round, str]:
    """One round on images under in/, and what its jobs said; every image must be one row."""
    log = site.logs / f"{output}.log"
    with site.watch(output).watching(0.2) as watch:
        done = run_round(site.cluster, site.flags(output, *flags), killer=killer, log=log)
    said = log.read_text()
    listed = site.client.list_objects_v2(Bucket=site.bucket, Prefix="in/")["Contents"]
    images = [f"s3://{site.bucket}/{item['Key']}" for item in listed]
    rows = watch.rows()
    assert done.violations + watch.violations == [], said
    assert compare(rows, images, {}).violations() == [], said
    return done, said


@pytest.mark.parametrize("kind", ["driver", *(kind for kind in KINDS if kind != "decoder")])
def test_whatever_is_killed_the_same_command_finishes(site: Site, kind: str) -> None:
    """Twice: early and in the middle. Only of a driver or a GCS that died does the command notice."""
    counting = site.watch(f"kill-{kind}")

    def shards() -> int:
        counting.look()
        return len(counting.etags)

    moments = [(1, kind)] if kind == "gcs" else [(1, kind), (8, kind)]
    done, said = score(site, f"kill-{kind}", ScriptedKiller(moments, shards))
    assert done.kills[kind] == len(moments), said
    assert done.runs == (1 + len(moments) if kind in ("driver", "gcs") else 1), said


def test_a_storm_of_503_is_waited_out(site: Site) -> None:
    """Half a minute in which nothing at all succeeds."""
    counting = site.watch("storm")

    class Storm:
        begun = False

        def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> None:
            counting.look()
            if counting.etags and not self.begun:
                self.begun = True
                site.proxy.forever = "503"
                threading.Timer(30, setattr, (site.proxy, "forever", None)).start()

    storm = Storm()
    done, said = score(site, "storm", storm)
    assert storm.begun, said
    assert done.runs == 1
    assert site.proxy.counts()["503"] > 0


def test_a_store_that_stays_away_ends_the_job_and_the_command_continues_when_it_is_back(
    site: Site,
) -> None:
    """Exit code 1, one line that says why, no row of an image that could not be read."""
    log = site.logs / "away-1.log"
    site.proxy.requests.clear()
    flags = ("--shard-size", "250")  # longer than an outage lasts until it is noticed
    try:
        with log.open("wb") as output, running(site, "away", output.fileno(), *flags) as driver:
            while driver.poll() is None and site.proxy.counts()["pass"] < 100:
                time.sleep(0.2)
            site.proxy.forever = "503"
            assert driver.wait(1800) == 1, log.read_text()
    finally:
        site.proxy.forever = None
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith("failed: "), log.read_text()
    watch = site.watch("away")
    watch.look()
    assert all(row["status"] == "ok" for row in watch.rows())
    score(site, "away", flags=flags)


def test_two_drivers_at_once_make_one_set_of_rows(site: Site) -> None:
    """Both behind the faulty proxy; both exit with 0."""
    logs = [site.logs / f"two-{number}.log" for number in (1, 2)]
    site.proxy.rates = RATES
    try:
        with contextlib.ExitStack() as stack:
            watch = stack.enter_context(site.watch("two").watching(0.2))
            drivers = []
            for log in logs:
                output = stack.enter_context(log.open("wb"))
                drivers.append(stack.enter_context(running(site, "two", output.fileno())))
            codes = [driver.wait(1800) for driver in drivers]
    finally:
        site.proxy.rates = {}
    said = "".join(log.read_text() for log in logs)
    assert codes == [0, 0], said
    images = [f"s3://{site.bucket}/in/{name}" for name in drawn_images(NUM_IMAGES)]
    assert watch.violations + compare(watch.rows(), images, {}).violations() == [], said


def running(
    site: Site, output: str, log: int, *flags: str
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """jobs/score_bucket.py on the site's cluster."""
    environment = {**site.cluster.environment, "RAY_ADDRESS": site.cluster.address}
    return job(site.flags(output, *(flags or FLAGS)), environment, log)


def test_a_detector_whose_memory_is_taken_away_is_replaced(tmp_path: Path) -> None:
    """It keeps what it has and gets no more, as a process does at the limit of its container."""

    class Limiter:
        limited = 0

        def strike(self, cluster: RunningCluster, driver: subprocess.Popen[bytes]) -> None:
            counting.look()
            for pid in cluster.processes()["detector"] if counting.etags else []:
                if not self.limited:
                    resource.prlimit(pid, resource.RLIMIT_AS, (1, 1))
                    self.limited = pid

    with open_site(tmp_path, 1) as site:
        site.put(drawn_images(120, 1400, 2000))
        counting = site.watch("memory")
        limiter = Limiter()
        done, said = score(site, "memory", limiter)
        assert limiter.limited, said
        assert done.runs == 1, said


def test_a_full_object_store_slows_the_readers_down(tmp_path: Path) -> None:
    """Five times as many bytes as it holds; the smallest that Ray starts with is 75 MB."""
    with open_site(tmp_path, 1, ("--object-store-memory", "80000000")) as site:
        site.put(drawn_images(160, 1400, 2000))
        done, said = score(site, "small-store")
        assert done.runs == 1, said
