"""Plans, result rows and committers for the tests of the record."""

from __future__ import annotations

import datetime
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fastrcnn.config import ProposalConfig
from pipeline import record, storage
from pipeline.record import plan
from pipeline.record.committer import Committer
from pipeline.record.listed import ListedImages
from pipeline.schema import PLAN, RESULT, SCORED, scored_metadata
from pipeline.scoring.candidates import ReadSettings, read_images
from pipeline.scoring.selection import select
from pipeline.storage import ObjectInfo

RUN = "0123456789abcdef"


def planned(output: str, count: int, shard_size: int = 3) -> plan.Plan:
    images = [ObjectInfo(f"s3://b/{i:03d}.jpg", f"e{i}", 100 + i) for i in range(count)]
    return extend(output, images, shard_size=shard_size)


def extend(output: str, images: Sequence[ObjectInfo], *, shard_size: int) -> plan.Plan:
    """Plan some objects as if they had been listed."""
    listed = ListedImages()
    listed.add(storage.as_named(images))
    listed.deduplicate(None, look_up=False)
    planned = plan.extend(output, listed, shard_size=shard_size)
    listed.close()
    return planned


def planned_rows(images: str, shards: Sequence[int] | None = None) -> pa.Table:
    """Rows of a plan (PLAN) for what `images` names."""
    named = select(images).listed.first(10_000)
    numbers = list(shards) if shards is not None else [0] * named.num_rows
    return named.append_column("shard", pa.array(numbers, pa.int64())).cast(PLAN)


def candidates_of(folder: Path, proposals: ProposalConfig) -> pa.Table:
    """Write two images to `folder` and a broken file between; their candidates, in shards 0, 0 and 7."""
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (30, 40, 3)), ("c.png", (50, 20, 3))):
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / name)
    (folder / "b.png").write_bytes(b"no image")
    return read_images(planned_rows(str(folder), [0, 0, 7]), ReadSettings(proposals=proposals))


def rows_of(work: plan.Plan, shards: Iterable[int] | None = None) -> pa.Table:
    """The plan's rows of some shards, or of all."""
    numbers = range(work.num_shards) if shards is None else shards
    return pa.concat_tables([PLAN.empty_table(), *map(work.shard, numbers)])


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
    return pa.Table.from_pylist(made, schema=RESULT)


def committer(
    output: str,
    work: plan.Plan,
    to_do: Collection[int] | None = None,
    *,
    run_id: str = RUN,
    metadata: Mapping[bytes, bytes] | None = None,
    columns: Sequence[str] = SCORED.names,
) -> Committer:
    return Committer(
        output=output,
        run_id=run_id,
        plan=work,
        to_do=range(work.num_shards) if to_do is None else to_do,
        metadata=metadata or scored_metadata(("cat",), "m"),
        columns=columns,
    )


def written(output: str) -> pa.Table:
    """Every row of the run, in order of shard."""
    objects = storage.list_objects(record.scored_uri(output, RUN))
    files = [io.BytesIO(storage.read_bytes(item.uri)) for item in objects]
    return pa.concat_tables([pq.read_table(file) for file in files])
