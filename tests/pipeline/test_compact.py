"""Compacting a run: the flat table is complete, sorted, and replaced in one step."""

from __future__ import annotations

import io
import json
import os
import random
import runpy
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from pipeline import compact, storage
from pipeline.compact import run, table_uri
from pipeline.config import CompactConfig
from pipeline.errors import JobError, UserError
from pipeline.schema import DETECTIONS
from tests.pipeline.scored_runs import image, write_shard

JOB = Path(__file__).resolve().parents[2] / "jobs" / "compact.py"
A, B = (1.0, 2.0, 30.0, 40.0), (5.0, 6.0, 7.0, 8.0)


def config(output: str, **flags: Any) -> CompactConfig:
    return CompactConfig(scored=output, output=output, **flags)


def table(output: str, run_id: str = "r1") -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read_bytes(table_uri(output, run_id))))


def boxes(output: str, run_id: str = "r1") -> list[tuple[Any, ...]]:
    columns = ("label", "score", "image_uri", "detection", "x_max")
    return [tuple(row[c] for c in columns) for row in table(output, run_id).to_pylist()]


@pytest.fixture(params=["s3", "local"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place in a bucket and on disk."""
    if request.param == "s3":
        return str(request.getfixturevalue("bucket")) + "/results"
    return str(tmp_path / "results")


def test_boxes_are_flat_and_sorted_by_label_then_falling_score(output: str) -> None:
    write_shard(output, image("b.jpg", ("dog", 0.5, A), ("cat", 0.25, B)), image("c.jpg"))
    write_shard(
        output,
        image("a.jpg", ("cat", 0.75, A), ("cat", 0.25, A)),
        image("d.jpg", status="undecodable", error="cut short"),
        shard=1,
    )
    (summary,) = run(config(output))
    assert table(output).schema.equals(DETECTIONS)
    assert boxes(output) == [
        ("cat", 0.75, "a.jpg", 0, 30),
        ("cat", 0.25, "a.jpg", 1, 30),
        ("cat", 0.25, "b.jpg", 1, 7),
        ("dog", 0.5, "b.jpg", 0, 30),
    ]
    assert (summary.images, summary.boxes, summary.written) == (4, 4, True)
    assert table(output).slice(3).to_pylist() == [
        {"image_uri": "b.jpg", "detection": 0, "label": "dog", "label_id": 2, "score": 0.5}
        | {"x_min": 1.0, "y_min": 2.0, "x_max": 30.0, "y_max": 40.0, "model_id": "m1"}
    ]


def test_the_metadata_of_the_file_describes_it(tmp_path: Path) -> None:
    write_shard(str(tmp_path), image("a.jpg", ("cat", 0.75, A)))
    (summary,) = run(config(str(tmp_path)))
    footer = pq.read_metadata(summary.uri)
    assert footer.metadata[b"format_version"] == b"1"
    assert json.loads(footer.metadata[b"classes"]) == ["cat", "dog"]
    assert footer.metadata[b"coordinates"].startswith(b"xyxy")
    assert (footer.metadata[b"model_id"], footer.metadata[b"run_id"]) == (b"m1", b"r1")
    group = footer.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
    names = [footer.schema.column(s.column_index).name for s in group.sorting_columns]
    assert names == ["label", "score", "image_uri", "detection"]
    assert [s.descending for s in group.sorting_columns] == [False, True, False, False]


def test_only_the_newest_row_of_an_image_counts(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_shard(
        output,
        image("a.jpg", ("cat", 0.5, A), hours=2),
        image("b.jpg", ("cat", 0.5, A)),
        image("c.jpg", ("dog", 0.5, A)),
    )
    write_shard(
        output,
        image("a.jpg", ("dog", 0.9, A), hours=1),
        image("b.jpg", hours=3, status="changed", error="gone"),
        shard=1,
    )
    (summary,) = run(config(output))
    assert [box[::2] for box in boxes(output)] == [("cat", "a.jpg", 30), ("dog", "c.jpg", 30)]
    assert (summary.images, summary.boxes) == (3, 2)


def test_a_run_without_a_box_gives_an_empty_table_of_the_same_types(tmp_path: Path) -> None:
    write_shard(str(tmp_path), image("a.jpg"))
    (summary,) = run(config(str(tmp_path)))
    assert (summary.images, summary.boxes) == (1, 0)
    assert table(str(tmp_path)).schema.equals(DETECTIONS)


def test_each_run_gets_its_table(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_shard(output, image("a.jpg", ("cat", 0.5, A)), run_id="r1")
    write_shard(output, image("a.jpg", ("dog", 0.5, A)), run_id="r2", model_id="m2")
    assert [summary.run_id for summary in run(config(output, run_id="r2"))] == ["r2"]
    assert not storage.exists(table_uri(output, "r1"))
    summaries = run(config(output))
    assert [(s.run_id, s.written) for s in summaries] == [("r1", True), ("r2", False)]
    assert [boxes(output, run)[0][0] for run in ("r1", "r2")] == ["cat", "dog"]
    with pytest.raises(UserError, match="--run-id r9: is not under .* Give one of: r1, r2"):
        run(config(output, run_id="r9"))


def test_a_second_run_does_nothing_or_adds_the_new_images(output: str) -> None:
    write_shard(output, image("a.jpg", ("cat", 0.5, A)))
    (first,) = run(config(output))
    before = storage.stat(first.uri)
    (again,) = run(config(output))
    assert (again.written, again.images, again.boxes) == (False, 1, 1)
    assert (again.size_bytes, storage.stat(first.uri)) == (before.size, before)
    write_shard(output, image("b.jpg", ("cat", 0.75, A)), shard=1)
    (third,) = run(config(output))
    assert third.written
    assert [box[2] for box in boxes(output)] == ["b.jpg", "a.jpg"]
    assert [info.uri for info in storage.list_objects(f"{output}/detections")] == [third.uri]


def test_a_reader_of_the_old_table_on_disk_continues_with_it(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_shard(output, image("a.jpg", ("cat", 0.5, A)))
    (summary,) = run(config(output))
    with pq.ParquetFile(summary.uri) as reader:
        write_shard(output, image("b.jpg", *[("dog", 0.5, A)] * 100), shard=1)
        run(config(output))
        assert reader.read()["label"].to_pylist() == ["cat"]
    assert table(output).num_rows == 101


def test_a_reader_of_the_old_table_in_a_bucket_never_reads_a_part_of_the_new_one(
    bucket: str,
) -> None:
    write_shard(bucket, image("a.jpg", ("cat", 0.5, A)))
    (summary,) = run(config(bucket))
    opened = s3fs.S3FileSystem().open(summary.uri, cache_type="none")
    assert opened.read(4) == b"PAR1"
    write_shard(bucket, image("b.jpg", ("dog", 0.5, A)), shard=1)
    run(config(bucket))
    with pytest.raises(OSError, match="no longer exists"):
        opened.read(4)


def many(count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        image(
            f"s3://bucket/{seed}/{i:06d}.jpg", *((rng.choice(("cat", "dog")), rng.random(), A),) * 5
        )
        for i in range(count)
    ]


def test_a_run_larger_than_memory_is_sorted_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100k boxes in row groups of 16k, with less memory than their rows take."""
    monkeypatch.setattr(compact, "ROW_GROUP", 16 * 1024)
    for shard in range(2):
        write_shard(str(tmp_path), *many(10_000, shard), shard=shard)
    (summary,) = run(config(str(tmp_path), memory_gib=0.03, temp_folder=str(tmp_path)))
    assert summary.boxes == 100_000
    rows = table(str(tmp_path)).select(["label", "score"])
    order = [("label", "ascending"), ("score", "descending")]
    assert rows.equals(rows.sort_by(order))
    footer = pq.read_metadata(summary.uri)
    sizes = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
    assert sizes == [16 * 1024] * 6 + [100_000 - 6 * 16 * 1024]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["detections", "scored"]


# --- mistakes of the user ------------------------------------------------------------------------


def test_a_full_disk_or_too_little_memory_leaves_the_old_table(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_shard(output, image("a.jpg", ("cat", 0.5, A)))
    (summary,) = run(config(output))
    before = storage.stat(summary.uri)
    write_shard(output, *many(5_000, 1), shard=1)
    with pytest.raises(JobError, match="Give more --memory-gib"):
        run(config(output, memory_gib=0.002))
    assert storage.stat(summary.uri) == before


def test_an_object_that_is_not_a_table_of_this_job_is_not_replaced(tmp_path: Path) -> None:
    output = str(tmp_path)
    write_shard(output, image("a.jpg", ("cat", 0.5, A)))
    foreign = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), foreign)
    for data in (b"something else", foreign.getvalue()):
        storage.write_bytes(table_uri(output, "r1"), data)
        with pytest.raises(UserError, match=r"r1.parquet: is not a table of this job"):
            run(config(output))
        assert storage.read_bytes(table_uri(output, "r1")) == data


def test_a_dry_run_writes_nothing(output: str, caplog: pytest.LogCaptureFixture) -> None:
    write_shard(output, image("a.jpg", ("cat", 0.5, A)))
    with caplog.at_level("INFO"):
        assert run(config(output, dry_run=True)) == []
    assert "run r1: 1 shards" in caplog.text
    assert storage.list_objects(f"{output}/detections", missing_ok=True) == []


def test_the_temp_folder_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sorted").mkdir()
    write_shard(str(tmp_path), image("a.jpg", ("cat", 0.5, A)))
    (summary,) = run(config(str(tmp_path), temp_folder="~/sorted"))
    assert summary.boxes == 1
    assert list((tmp_path / "sorted").iterdir()) == []


def test_a_broken_shard_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    uri = write_shard(str(tmp_path), image("a.jpg", ("cat", 0.5, A)))
    with pytest.raises(UserError, match="--temp-folder /no/such: cannot be written to"):
        run(config(str(tmp_path), temp_folder="/no/such"))
    storage.write_bytes(uri, storage.read_bytes(uri)[:-10])
    with pytest.raises(
        UserError, match="00000000.parquet: is damaged, or is not a table of a scoring run"
    ):
        run(config(str(tmp_path)))


def test_shards_of_two_detectors_are_refused(tmp_path: Path) -> None:
    write_shard(str(tmp_path), image("a.jpg"))
    write_shard(str(tmp_path), image("b.jpg"), shard=1, classes=("dog", "cat"))
    with pytest.raises(
        UserError, match="00000001.parquet: comes from a detector with other classes"
    ):
        run(config(str(tmp_path)))


def test_a_shard_of_another_run_is_refused(tmp_path: Path) -> None:
    """The same model with another flag, copied among the shards of this run."""
    write_shard(str(tmp_path), image("a.jpg"))
    copied = write_shard(str(tmp_path / "other"), image("b.jpg"), shard=1, run_id="r2")
    uri = str(tmp_path / "scored" / "r1" / "00000001.parquet")
    storage.write_bytes(uri, storage.read_bytes(copied))
    with pytest.raises(UserError, match="00000001.parquet: holds rows of run r2, expected run r1"):
        run(config(str(tmp_path)))


def _job(monkeypatch: pytest.MonkeyPatch, *flags: str) -> int | str | None:
    """Run the job's file as a program would be, in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", [str(JOB), *flags])
    try:
        runpy.run_path(str(JOB), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_job_writes_the_table_or_prints_one_line_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert os.access(JOB, os.X_OK)
    places = ("--scored", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    assert _job(monkeypatch, *places) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/in: names no object")
    assert _job(monkeypatch, *places, "--runid", "r1") == 2
    assert "--runid" in capsys.readouterr().err
    assert _job(monkeypatch, *places, "--memory-gib", "0") == 2
    assert "--memory-gib 0.0: must be above 0" in capsys.readouterr().err
    write_shard(str(tmp_path / "in"), image("a.jpg", ("cat", 0.5, A)))
    assert _job(monkeypatch, *places) == 0
    assert boxes(str(tmp_path / "out")) == [("cat", 0.5, "a.jpg", 0, 30)]
