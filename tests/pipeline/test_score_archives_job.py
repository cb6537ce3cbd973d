"""jobs/score_bucket.py scores loose images and archives on a cluster, also if its driver is killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.detector import Detector
from pipeline.storage.chains import member_part, split_chain
from tests.fault_proxy import FaultyProxy
from tests.pipeline.storage.archives.hostile import link, parquet_of, tar_of, zip_of
from tests.pipeline.storage.archives.odd import encrypted
from tests.soak.cluster import SessionCluster
from tests.soak.images import drawn_images
from tests.soak.killers import ScriptedKiller
from tests.soak.record import Row, compare
from tests.soak.rounds import Round, run_round
from tests.soak.site import Site

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_cluster")]
IMAGES = drawn_images(60)
NAMES = list(IMAGES)


@pytest.fixture
def site(
    tmp_path: Path,
    s3_client: Any,
    bucket: str,
    worker_proxy: FaultyProxy,
    tiny_checkpoint: Path,
) -> Site:
    """A bucket with 20 loose images, 20 in a tar, 10 in a zip, 10 in a Parquet file, and damaged archives."""
    site = Site(
        client=s3_client,
        proxy=worker_proxy,
        cluster=SessionCluster(worker_proxy.url),
        checkpoint=tiny_checkpoint,
        bucket=bucket.removeprefix("s3://"),
        logs=tmp_path,
    )
    parts = [[(n, IMAGES[n]) for n in NAMES[a:b]] for a, b in ((20, 40), (40, 50), (50, 60))]
    site.put(
        {
            **{name: IMAGES[name] for name in NAMES[:20]},
            "x.tar": tar_of(*parts[0], ("notes.txt", b"x"), link("link.jpg", NAMES[20])),
            "deep/y.zip": zip_of(*parts[1]),
            "z.parquet": parquet_of([data for _, data in parts[2]], rows=4),
            "cut.tar": tar_of(*parts[0][:3])[:-3000],
            "locked.zip": encrypted((NAMES[0], IMAGES[NAMES[0]])),
        }
    )
    return site


def score(site: Site, output: str, script: list[tuple[int, str]]) -> tuple[Round, list[Row], str]:
    """Run the job until it exits with 0. Return what happened, the rows, and the log."""
    flags = site.flags(output, "--archives", "--shard-size", "4", "--batch-size", "2")
    log = site.logs / f"{output}.log"
    with site.watch(output).watching(every_s=0.1) as watch:
        killer = ScriptedKiller(script, lambda: len(watch.etags))
        done = run_round(site.cluster, flags, killer=killer, log=log)
    assert done.violations + watch.violations == [], log.read_text()
    return done, watch.rows(), log.read_text()


def test_a_mixed_folder_is_scored_and_a_killed_job_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 missing, 0 twice, 0 different from a run that nobody killed, and right boxes."""
    _, rows, log = score(site, "whole", [])
    by_uri = {row["image_uri"]: row for row in rows}
    assert len(rows) == len(by_uri) == 60 + 1 + 3 + 1, log
    in_bucket = f"s3://{site.bucket}/in"
    statuses = Counter(row["status"] for row in rows)
    assert statuses == {"ok": 63, "undecodable": 2}, log
    assert "is cut" in by_uri[f"{in_bucket}/cut.tar"]["error"]
    assert "encrypted" in by_uri[f"zip://{NAMES[0]}::{in_bucket}/locked.zip"]["error"]
    assert sum(uri.startswith("tar://link.jpg::") for uri in by_uri) == 1

    detections = Detector(site.checkpoint, num_threads=1).detect(list(IMAGES.values()))
    boxes = dict(zip(NAMES, detections, strict=True))
    expected = {
        uri: {"status": "ok", "detections": boxes[name_of(uri)]}
        for uri, row in by_uri.items()
        if row["status"] == "ok"
    }
    found = compare(rows, by_uri, expected)
    assert (found.missing, found.twice, found.foreign, found.different) == (0, 0, 0, 0), log

    monkeypatch.setattr(site.proxy, "rates", {"503": 0.2, "slow": 0.1})
    done, again, log = score(site, "killed", [(2, "driver")])
    assert done.kills == {"driver": 1}, log
    found = compare(again, by_uri, by_uri)
    assert (found.missing, found.twice, found.foreign, found.different) == (0, 0, 0, 0), log
    columns = ("image_uri", "etag", "size_bytes", "status", "width", "height")
    assert sorted(tuple(row[c] for c in columns) for row in again) == sorted(
        tuple(row[c] for c in columns) for row in rows
    )


def name_of(uri: str) -> str:
    """The name of an image in `IMAGES`."""
    chain = split_chain(uri)
    if chain is not None and chain.kind == "parquet":
        return NAMES[50 + int(chain.name)]
    name = member_part(uri).rpartition("/")[2]
    return NAMES[20] if name == "link.jpg" else name
