"""Plans, result rows and committers for the tests of the record."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fastrcnn.config import ProposalConfig
from pipeline import record, storage
from pipeline.record import plan
from pipeline.record.committer import Committer
from pipeline.record.listed import ListedImages
from pipeline.record.manifest import current_shards, write_manifest
from pipeline.schema import (
    FIRST_COLUMNS,
    PLAN,
    RESULT,
    SCORED,
    encode_parquet,
    scored_metadata,
    with_shards,
)
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
    return with_shards(named, pa.array(numbers, pa.int64()))


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


def result(rows: pa.Table, *, status: str = "ok", author: str = "m", run_id: str = RUN) -> pa.Table:
    """Result rows for planned rows, as a Detector would give them."""
    box = {"label": "cat", "label_id": 1, "score": 0.5}
    box |= {"x_min": 0.0, "y_min": 0.0, "x_max": 2.0, "y_max": 3.0}
    now = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    made = [
        row
        | {"status": status, "model_id": author, "run_id": run_id, "scored_at": now}
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


def score_all(output: str, work: plan.Plan, *, run_id: str = RUN, author: str = "m") -> None:
    """Write every shard that the run lacks, and the manifest, as a command does."""
    work, found = current_shards(output, run_id, work)
    rest = record.missing_shards(work, set(found), run_id=run_id)
    writer = committer(output, work, rest, run_id=run_id)
    writer.add(result(rows_of(work, rest), author=author, run_id=run_id))
    writer.close()
    write_manifest(output, run_id, work, writer.shards)


def done_shards(output: str, run_id: str, work: plan.Plan) -> set[int]:
    """The numbers of the shards of a run that exist."""
    return set(current_shards(output, run_id, work)[1])


def objects(output: str) -> dict[str, bytes]:
    """Every object under an output, by its name below it."""
    top = storage.absolute(output) + "/"
    listed = storage.list_objects(output, missing_ok=True)
    return {info.uri.removeprefix(top): storage.read_bytes(info.uri) for info in listed}


def make_older(output: str) -> None:
    """Turn an output into one of the first version: no hashes, numbers or ETags; absolute URIs."""
    for name, data in objects(output).items():
        uri = storage.join(output, name)
        if name.startswith("scored/"):
            table = pq.read_table(io.BytesIO(data)).select(FIRST_COLUMNS)
            kept = {b"format_version": b"1", b"classes": b'["cat"]', b"model_id": b"m"}
            storage.write_bytes(
                uri, encode_parquet(table.replace_schema_metadata({}), metadata=kept)
            )
    for name, data in objects(output).items():
        if "/manifest-" in name:
            described = json.loads(data)
            del described["generations"]
            for entry in described["shards"]:
                old = storage.read_bytes(storage.join(output, entry["uri"]))
                entry |= {"size_bytes": len(old), "sha256": hashlib.sha256(old).hexdigest()}
                entry["uri"] = storage.join(output, entry["uri"])
                for key in ("plan_sha256", "write_id", "etag"):
                    del entry[key]
            storage.write_bytes(storage.join(output, name), json.dumps(described).encode())


def last_manifest(output: str, run_id: str = RUN) -> dict[str, Any]:
    """The newest manifest of a run."""
    found = objects(storage.join(output, "runs", run_id))
    names = [name for name in found if name.startswith("manifest-")]
    described: dict[str, Any] = json.loads(found[max(names)])
    return described


def wrong_hashes(output: str, run_id: str = RUN) -> list[str]:
    """The shards of the newest manifest that are not the objects that it describes."""
    there = objects(output)
    return [
        entry["uri"]
        for entry in last_manifest(output, run_id)["shards"]
        if hashlib.sha256(there.get(entry["uri"], b"")).hexdigest() != entry["sha256"]
    ]
