"""Tests of `make soak`: a short round on the cluster of the session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.detector import Detector
from tests.fault_proxy import FaultyProxy
from tests.soak.cluster import SessionCluster
from tests.soak.images import drawn_images
from tests.soak.killers import ScriptedKiller
from tests.soak.record import Row, Watch, compare
from tests.soak.rounds import run_round
from tests.soak.site import RATES, Site


@pytest.mark.usefixtures("ray_cluster")
def test_a_round_with_a_killed_driver_and_a_killed_detector(
    tmp_path: Path,
    s3_client: Any,
    bucket: str,
    worker_proxy: FaultyProxy,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of 60 images behind the proxy gets one row, with the same boxes as in an undisturbed run."""
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
    expected: dict[str, Row] = {uri: {"status": "ok", "detections": rows} for uri, rows in boxes}

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


def test_missing_doubled_and_different_rows_are_reported() -> None:
    box = {"label": "cat", "score": 0.5, "x_min": 0.0, "y_min": 0.0, "x_max": 9.0, "y_max": 9.0}
    good = {"image_uri": "a", "status": "ok", "detections": [box]}
    near = good | {"detections": [box | {"x_max": 9.01}]}
    far = good | {"detections": [box | {"x_max": 10.0}]}
    assert compare([near], ["a"], {"a": good}).violations() == []
    assert compare([near], ["a"], {"a": good}).largest_px == pytest.approx(0.01)
    assert compare([good, far], ["a", "b"], {"a": good}).violations() == [
        "1 images missing",
        "1 images twice",
        "1 images different",
    ]
    again = [good | {"status": "denied", "detections": None}, good | {"generation": 2}]
    assert compare(again, ["a"], {"a": good}).violations() == []
    assert compare([*again, good], ["a"], {}).violations() == ["1 images twice"]
    assert compare([good | {"status": "failed"}], [], {}).violations() == [
        "1 images foreign",
        "1 images not_ok",
    ]


def test_a_changed_or_deleted_shard_is_reported(s3_client: Any, bucket: str) -> None:
    name = bucket.removeprefix("s3://")
    watch = Watch(s3_client, name, "scored/")
    for content in (b"1", b"2"):
        s3_client.put_object(Bucket=name, Key="scored/r/0.parquet", Body=content)
        s3_client.put_object(Bucket=name, Key=f"scored/r/{content.decode()}.parquet", Body=b"")
        watch.look()
    assert len(watch.violations) == 1
    s3_client.delete_object(Bucket=name, Key="scored/r/1.parquet")
    watch.look()
    assert "1.parquet: was" in watch.violations[1]
