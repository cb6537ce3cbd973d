"""The whole chain on a local cluster and a real S3 server."""

from __future__ import annotations

import io
import logging
import re
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from pipeline import record, score, storage
from pipeline.config import ScoreConfig
from pipeline.errors import JobError, UserError
from pipeline.record import plan
from pipeline.runtime import cluster
from pipeline.runtime.attempts import SharedAttempts
from pipeline.schema import SCORED
from pipeline.score import chain, make_tasks, portions, run
from pipeline.scoring.candidates import ReadSettings
from pipeline.scoring.preflight import prepare
from pipeline.scoring.resources import Resources
from pipeline.scoring.selection import select
from tests.pipeline.poison import Poisoned

# Ray 2.60 sets its own deprecated settings whenever it copies a DataContext.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def upload(contents: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(storage.write_bytes, contents, contents.values()))


def scored(output: str, run_id: str) -> pa.Table:
    """Read all files of scored/<run_id>, as any reader does."""
    objects = storage.list_objects(record.scored_uri(output, run_id))
    tables = [pq.read_table(io.BytesIO(storage.read_bytes(item.uri))) for item in objects]
    assert all(table.schema.remove_metadata() == SCORED for table in tables)
    return pa.concat_tables(tables)


def immutable(output: str) -> set[tuple[str, str]]:
    """Return (URI, ETag) of the objects that are written only once, so not of the summary."""
    objects = storage.list_objects(output)
    return {(item.uri, item.etag) for item in objects if not item.uri.endswith("summary.json")}


def exported(run_id: str) -> dict[str, float]:
    """Read the counts of images by status from the metrics endpoint."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    for _ in range(60):
        with urllib.request.urlopen(url) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith("ray_detection_images_total{")]
        found = [line for line in found if f'run_id="{run_id}"' in line]
        totals: Counter[str] = Counter()
        for line in found:
            status = re.search(r'status="(\w+)"', line)
            assert status
            totals[status[1]] += int(float(line.rpartition(" ")[2]))
        if totals["ok"] >= 451:
            break
        time.sleep(0.5)
    return dict(totals)


def test_a_portion_has_whole_shards_and_at_least_one(tmp_path: Path) -> None:
    for n in range(25):
        (tmp_path / f"{n:02d}.jpg").write_bytes(jpeg(n))
    planned = plan.extend(
        str(tmp_path / "out"), select(str(tmp_path)).listed, shard_size=10
    )  # 10, 10 and 5
    shards = range(planned.num_shards)
    assert [*portions(planned, shards, 25)] == [[0, 1, 2]]
    assert [*portions(planned, shards, 15)] == [[0], [1, 2]]
    assert [*portions(planned, shards, 3)] == [[0], [1], [2]]
    assert [*portions(planned, [], 3)] == []


@pytest.mark.usefixtures("ray_cluster")
def test_500_images_of_which_50_are_broken(
    bucket: str,
    s3_client: Any,
    tiny_checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every image has one row. A second run does nothing. A changed image is scored again."""
    monkeypatch.setattr(score, "IMAGES_AT_ONCE", 300)  # so that there are two executions
    contents = {f"{bucket}/in/{n:03d}.jpg": jpeg(n) for n in range(500)}
    broken = {0: b"", 1: jpeg(1)[:300], 2: b"<Error><Code>NoSuchKey</Code></Error>"}
    uris = sorted(contents)
    for n in range(40):
        contents[uris[12 * n]] = broken[n % 3]
    upload(contents | {f"{bucket}/in/notes.txt": b"left out"})
    config = ScoreConfig(
        images=f"{bucket}/in",
        checkpoint=str(tiny_checkpoint),
        output=f"{bucket}/out",
        shard_size=64,
        batch_size=16,
        score_threshold=0.04,  # another run_id, because the metrics count all runs of this session
    )
    estimate = run(replace(config, dry_run=True))
    assert not estimate.complete
    assert storage.list_objects(config.output, missing_ok=True) == []

    # Ten images are deleted between listing and scoring.
    plan.extend(config.output, select(config.images).listed, shard_size=config.shard_size)
    gone = [uri for uri in uris if uri not in uris[::12]][:10]
    for uri in gone:
        s3_client.delete_object(Bucket=bucket[5:], Key=uri.removeprefix(f"{bucket}/"))

    with caplog.at_level(logging.INFO, logger="pipeline"):
        summary = run(config)
    expected = {"ok": 450, "undecodable": 40, "missing": 10}
    assert (summary.statuses, summary.images, summary.complete) == (expected, 500, True)
    assert "ok 450, undecodable 40, missing 10" in caplog.text
    table = scored(config.output, summary.run_id)
    assert sorted(table["image_uri"].to_pylist()) == uris
    assert Counter(table["status"].to_pylist()) == Counter(expected)
    rows = {row["image_uri"]: row for row in table.to_pylist()}
    assert {uri for uri, row in rows.items() if row["status"] == "missing"} == set(gone)
    assert all(row["error"] for row in rows.values() if row["status"] != "ok")
    assert all(row["num_detections"] for row in rows.values() if row["status"] == "ok")

    before = immutable(config.output)
    again = run(config)
    assert (again.scored, again.statuses) == (0, expected)
    assert immutable(config.output) == before

    with pytest.raises(UserError, match="--compile: is slower on CPUs"):
        run(replace(config, compile=True))
    assert immutable(config.output) == before

    with pytest.raises(JobError, match=r"50 of 500 images are not ok"):
        run(replace(config, max_failures=0.05))

    storage.write_bytes(uris[0], jpeg(1000))
    continued = run(config)
    assert (continued.scored, continued.images, continued.statuses["ok"]) == (1, 500, 451)
    assert before < immutable(config.output)
    # This comes last, because Ray exports the counts some seconds later.
    assert exported(summary.run_id)["ok"] == 451


@pytest.mark.usefixtures("ray_cluster")
def test_an_image_that_kills_its_process_gets_a_row(bucket: str, tiny_checkpoint: Path) -> None:
    upload({f"{bucket}/in/{n}.jpg": jpeg(n) for n in range(8)})
    config = ScoreConfig(
        images=f"{bucket}/in", checkpoint=str(tiny_checkpoint), output=f"{bucket}/out"
    )
    job = prepare(config)
    planned = plan.extend(config.output, job.selection.listed, shard_size=8)
    resources = Resources(
        cpus=2.0, gpus=0.0, workers=1, detector_cpus=1.0, detector_gpus=0.0, read_cpus=0.9
    )
    cluster.configure_ray_data()
    results = chain(
        make_tasks(planned, [0], 4, resources),
        read_settings=ReadSettings(proposals=job.proposals),
        detector=Poisoned,
        detector_settings={"poison": f"{bucket}/in/5.jpg"},
        attempts=SharedAttempts(),
        resources=resources,
        batch_size=4,
    )
    rows = pa.concat_tables(results.iter_batches(batch_size=None, batch_format="pyarrow"))
    found = {row["image_uri"][-5:]: row for row in rows.to_pylist()}
    assert {name: row["status"] for name, row in found.items()} == {
        f"{n}.jpg": "failed" if n == 5 else "ok" for n in range(8)
    }
    assert "died each of 3 times" in found["5.jpg"]["error"]
