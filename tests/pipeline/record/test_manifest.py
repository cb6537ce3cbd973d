"""The manifest describes the shards that exist, after checking them against the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import record, storage
from pipeline.errors import JobError
from pipeline.record.manifest import write_manifest
from tests.pipeline.record_cases import RUN, committer, planned, result, rows_of


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path)


def test_the_manifest_counts_and_hashes_every_shard(output: str) -> None:
    work = planned(output, 5)
    writer = committer(output, work)
    writer.add(result(rows_of(work).slice(0, 3)))
    writer.flush()
    partial = write_manifest(output, RUN, work, writer.shards)
    assert (partial.rows, partial.complete) == (3, False)
    writer.add(result(rows_of(work).slice(3, 2), status="missing"))
    writer.close()
    # Without the committer's shards, as after a crash: it reads the objects.
    manifest = write_manifest(output, RUN, work)
    assert (manifest.rows, manifest.complete) == (5, True)
    assert manifest.statuses == {"ok": 3, "missing": 2}
    assert list(manifest.shards) == writer.shards
    folder = Path(output) / "runs" / RUN
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest-000001.json",
        "manifest-000002.json",
    ]
    text = json.loads((folder / "manifest-000002.json").read_text())
    assert text["rows"] == 5
    assert storage.exists(text["shards"][1]["uri"])


def test_a_manifest_equal_to_the_last_one_is_not_written(output: str) -> None:
    work = planned(output, 3)
    writer = committer(output, work)
    writer.add(result(rows_of(work)))
    writer.close()
    first = write_manifest(output, RUN, work, writer.shards)
    assert write_manifest(output, RUN, work) == first
    assert len(list((Path(output) / "runs" / RUN).iterdir())) == 1


@pytest.mark.parametrize("fault", ["garbage", "fewer rows", "other rows"])
def test_a_shard_that_differs_from_the_plan_fails_the_job(output: str, fault: str) -> None:
    work = planned(output, 3)
    path = Path(record.shard_uri(output, RUN, 0))
    path.parent.mkdir(parents=True)
    rows = result(rows_of(work)).drop_columns(["shard", "detect_s"])
    if fault == "garbage":
        path.write_bytes(b"PAR1")
    elif fault == "fewer rows":
        pq.write_table(rows.slice(1), path)
    else:
        pq.write_table(pa.concat_tables([rows.slice(0, 2), rows.slice(0, 1)]), path)
    with pytest.raises(JobError, match="shard 0"):
        write_manifest(output, RUN, work)
