"""Ray scores all bad and unusual images of the corpus in one bucket; there is a row for each file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import record, storage
from pipeline.config import ScoreConfig
from pipeline.score import run
from tests.pipeline.hostile_images import corpus

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")


@pytest.mark.usefixtures("ray_cluster")
def test_a_bucket_of_hostile_images_has_a_row_for_each(bucket: str, tiny_checkpoint: Path) -> None:
    cases = {f"{bucket}/in/{n:03d} {case.name}.jpg": case for n, case in enumerate(corpus())}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda uri: storage.write_bytes(uri, cases[uri].data), cases))
    config = ScoreConfig(
        images=f"{bucket}/in",
        checkpoint=str(tiny_checkpoint),
        output=f"{bucket}/out",
        batch_size=16,
        max_bytes=10_000_000,
    )
    summary = run(config)
    assert (summary.images, summary.complete) == (len(cases), True)
    files = storage.list_objects(record.scored_uri(config.output, summary.run_id))
    tables = [pq.read_table(pa.BufferReader(storage.read_bytes(file.uri))) for file in files]
    rows = {row["image_uri"]: row for row in pa.concat_tables(tables).to_pylist()}
    assert rows.keys() == cases.keys()
    for uri, case in cases.items():
        row, statuses = rows[uri], case.statuses
        if len(case.data) > config.max_bytes:
            statuses = frozenset({"too_large"})
        assert row["status"] in statuses, uri
        assert (row["num_detections"] is not None) == (row["status"] == "ok")
        if row["status"] != "ok":
            assert row["error"], uri
            assert "\n" not in row["error"]
