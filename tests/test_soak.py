"""A short round of `make soak`, with the same parts, on the session's cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.detector import Detector
from tests.fault_proxy import FaultyProxy
from tests.soak.cluster import SETTINGS, kill, processes_below
from tests.soak.images import drawn_images
from tests.soak.killers import ScriptedKiller
from tests.soak.record import Row, compare
from tests.soak.rounds import run_round
from tests.soak.site import RATES, Site


class SessionCluster:
    """The one of `conftest.ray_cluster`: its processes are this one's, its only node is not to be shot."""

    def __init__(self, endpoint: str) -> None:
        self.address = ray.get_runtime_context().gcs_address
        self.environment = {**os.environ, **SETTINGS, "AWS_ENDPOINT_URL": endpoint}

    def processes(self) -> dict[str, list[int]]:
        return processes_below(os.getpid())

    def kill(self, pid: int) -> None:
        kill(pid)

    def mend(self) -> None:
        """Nothing dies here that Ray does not bring back."""


@pytest.mark.usefixtures("ray_cluster")
def test_a_round_with_a_killed_driver_and_a_killed_detector(
    tmp_path: Path,
    s3_client: Any,
    bucket: str,
    worker_proxy: FaultyProxy,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """60 images behind the proxy: every one is a row, once, with the boxes that it has without all this."""
    site = Site(
        client=s3_client,
        proxy=worker_proxy,
        cluster=SessionCluster(worker_proxy.url),
        checkpoint=tiny_checkpoint,
        bucket=bucket.removeprefix("s3://"),
        logs=tmp_path,
    )
    contents = drawn_images(60)
    images = site.put(contents)
    detector = Detector(tiny_checkpoint, num_threads=1)
    boxes = zip(images, detector.detect(list(contents.values())), strict=True)
    expected: dict[str, Row] = {uri: {"status": "ok", "detections": found} for uri, found in boxes}

    monkeypatch.setattr(worker_proxy, "rates", RATES | {"slow": 0.1})
    worker_proxy.requests.clear()
    flags = site.flags("out", "--shard-size", "3", "--batch-size", "2")
    with site.watch("out").watching(every_s=0.1) as watch:
        killer = ScriptedKiller([(1, "driver"), (4, "detector")], lambda: len(watch.etags))
        done = run_round(site.cluster, flags, killer=killer, log=tmp_path / "round.log")

    log = (tmp_path / "round.log").read_text()
    assert done.violations + watch.violations == [], log
    assert compare(watch.rows(), images, expected).violations() == [], log
    assert done.kills == {"driver": 1, "detector": 1}, log
    assert worker_proxy.counts().keys() >= {"503", "pass"}
