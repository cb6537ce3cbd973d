"""Images in tars, zips and Parquet files are scored on a bucket, also by a run that stopped.

The stages are called without Ray.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import record, storage
from pipeline.config import ScoreConfig
from pipeline.record import plan
from pipeline.record.committer import Committer
from pipeline.record.manifest import current_shards
from pipeline.schema import scored_metadata
from pipeline.scoring.candidates import cut_tasks, read_tasks
from pipeline.scoring.checked import checked_plan
from pipeline.scoring.detector import DetectorActor
from pipeline.scoring.preflight import detector_settings, prepare, read_settings
from pipeline.storage.chains import split_chain
from tests.fault_proxy import FaultyProxy, serving
from tests.pipeline.storage.archives.hostile import parquet_of, tar_of, zip_of


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def score_by_plain_calls(config: ScoreConfig, shards: int | None = None) -> str:
    """Score missing shards as `pipeline.score` does, at most so many; give the run_id."""
    job = prepare(config)
    try:
        planned, _ = checked_plan(job)
        planned = plan.extend(
            config.output, job.selection.listed, shard_size=config.shard_size, known=planned
        )
        planned, done = current_shards(config.output, job.run_id, planned)
        todo = record.missing_shards(planned, done, None, job.run_id)[:shards]
        detector = DetectorActor(**detector_settings(job), gpu=False, num_threads=1)
        committer = Committer(
            output=config.output,
            run_id=job.run_id,
            plan=planned,
            to_do=todo,
            metadata=scored_metadata(job.checkpoint.classes, job.checkpoint.model_id),
        )
        tasks = cut_tasks(planned, todo, 512)
        for number in range(tasks.num_rows):
            for candidates in read_tasks(tasks.slice(number, 1), read_settings(job)):
                committer.add(detector(candidates))
        committer.close()
    finally:
        job.selection.listed.close()
    return job.run_id


def test_a_run_over_archives_that_stopped_goes_on_with_few_requests(
    bucket: str, s3: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [jpeg(n) for n in range(8)]
    named = [(f"{n:03d}.jpg", images[n % 8]) for n in range(300)]
    few = named[:8]
    storage.write_bytes(f"{bucket}/in/x.tar", tar_of(*named))
    storage.write_bytes(f"{bucket}/in/y.zip", zip_of(*few))
    storage.write_bytes(f"{bucket}/in/z.parquet", parquet_of([*images], rows=3))
    storage.write_bytes(f"{bucket}/in/cut.tar", tar_of(*few)[:5000])
    for name, data in few:
        storage.write_bytes(f"{bucket}/in/loose/{name}", data)
    config = ScoreConfig(
        images=f"{bucket}/in",
        archives=True,
        checkpoint=str(tiny_checkpoint),
        output=f"{bucket}/out",
        shard_size=100,
    )
    run_id = score_by_plain_calls(config, shards=1)
    assert len(scored(config.output, run_id)) == 100
    with serving(FaultyProxy(s3)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        score_by_plain_calls(config)
        gets = sum(request.startswith("GET") for request in proxy.requests)
    rows = scored(config.output, run_id)
    by_uri = {row["image_uri"]: row for row in rows}
    assert len(by_uri) == len(rows) == 300 + 8 + 8 + 8 + 1 + 1
    boxes: dict[int, list[Any]] = {}
    for uri, row in by_uri.items():
        chain = split_chain(uri)
        if uri == f"{bucket}/in/cut.tar":
            assert row["status"] == "undecodable"
            assert "is cut" in row["error"]
            continue
        number = int(chain.name if chain and chain.kind == "parquet" else storage.stem(uri)) % 8
        assert row["status"] == "ok"
        assert row["size_bytes"] == len(images[number])
        assert row["etag"] == storage.stat(chain.archive if chain else uri).etag
        boxes.setdefault(number, []).append(row["detections"])
    # The same bytes give the same boxes, wherever they lie.
    assert all(found == [found[0]] * len(found) for found in boxes.values())
    assert gets < 60  # plan, shards, listing and reading, for 326 images


def scored(output: str, run_id: str) -> list[dict[str, Any]]:
    objects = storage.list_objects(record.scored_uri(output, run_id))
    tables = [pq.read_table(io.BytesIO(storage.read_bytes(info.uri))) for info in objects]
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows
