"""Plans, result rows and committers for the tests of the record."""

from __future__ import annotations

import datetime
import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import plan, record, storage
from pipeline.record import Committer
from pipeline.storage import ObjectInfo

RUN = "0123456789abcdef"


def planned(output: str, count: int, shard_size: int = 3) -> plan.Plan:
    images = [ObjectInfo(f"s3://b/{i:03d}.jpg", f"e{i}", 100 + i) for i in range(count)]
    return plan.extend(output, images, shard_size=shard_size)


def result(rows: pa.Table, *, status: str = "ok", author: str = "m") -> pa.Table:
    """Result rows for planned rows, as a Detector would give them."""
    box = {"label": "cat", "label_id": 1, "score": 0.5}
    box |= {"x_min": 0.0, "y_min": 0.0, "x_max": 2.0, "y_max": 3.0}
    now = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    made = [
        row
        | {"status": status, "model_id": author, "run_id": RUN, "scored_at": now}
        | {"num_proposals": 9, "num_detections": 1, "detections": [box]}
        for row in rows.to_pylist()
    ]
    return pa.Table.from_pylist(made, schema=record.RESULT)


def committer(output: str, work: plan.Plan, to_do: pa.Table | None = None) -> Committer:
    return Committer(
        output=output,
        run_id=RUN,
        plan=work,
        to_do=work.rows if to_do is None else to_do,
        metadata={b"format_version": b"1"},
    )


def written(output: str) -> pa.Table:
    """Every row of the run, in order of shard."""
    objects = storage.list_objects(record.scored_uri(output, RUN))
    files = [io.BytesIO(storage.read_bytes(item.uri)) for item in objects]
    return pa.concat_tables([pq.read_table(file) for file in files])
