"""Reading the rows of a scoring run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import UserError
from pipeline.results.scored import find_run, read_run
from pipeline.schema import (
    FIRST_COLUMNS,
    SCORED,
    TABLE_VERSION,
    encode_parquet,
    scored_metadata,
)

CLASSES = ("ring", "cross")


def _row(image_uri: str, *labels: str, day: int = 1, status: str = "ok") -> dict[str, Any]:
    box = {"label_id": 1, "score": 0.5, "x_min": 0, "y_min": 0, "x_max": 9, "y_max": 9}
    return {
        "image_uri": image_uri,
        "status": status,
        "scored_at": datetime(2026, 1, day, tzinfo=UTC),
        "detections": [{"label": label, **box} for label in labels] if status == "ok" else None,
    }


def _shard(uri: str, *rows: dict[str, Any], classes: tuple[str, ...] = CLASSES) -> None:
    table = pa.Table.from_pylist(list(rows), schema=SCORED)
    storage.write_bytes(uri, encode_parquet(table, metadata=scored_metadata(classes, "m1")))


def test_a_run_is_found_from_each_of_its_folders(bucket: str) -> None:
    _shard(f"{bucket}/out/scored/r1/0.parquet", _row("s3://x/1.jpg"))
    storage.write_bytes(f"{bucket}/out/plans/g1/0.parquet", b"not a table of ours")
    for given in ("out", "out/", "out/scored", "out/scored/r1", "out/scored/r1/"):
        files = find_run(f"{bucket}/{given}")
        assert (files.run_id, files.root) == ("r1", f"{bucket}/out"), given
        assert files.uris == (f"{bucket}/out/scored/r1/0.parquet",)


def test_a_run_that_was_copied_elsewhere_is_found(bucket: str) -> None:
    _shard(f"{bucket}/copy/0.parquet", _row("s3://x/1.jpg"))
    files = find_run(f"{bucket}/copy")
    assert (files.run_id, files.root) == ("copy", f"{bucket}/copy")


def test_several_runs_are_listed_and_one_is_chosen(bucket: str) -> None:
    for run_id in ("r1", "r2"):
        _shard(f"{bucket}/scored/{run_id}/0.parquet", _row("s3://x/1.jpg"))
    with pytest.raises(UserError, match="holds 2 runs. Give --run-id: r1, r2"):
        find_run(bucket)
    assert find_run(bucket, "r2").uris == (f"{bucket}/scored/r2/0.parquet",)
    with pytest.raises(UserError, match="--run-id r3: is not under .* Give one of: r1, r2"):
        find_run(bucket, "r3")


def test_an_output_without_shards_is_refused(bucket: str) -> None:
    with pytest.raises(UserError, match="names no object"):
        find_run(bucket)
    storage.write_bytes(f"{bucket}/plans/g1/0.parquet", b"no table of ours")
    with pytest.raises(UserError, match="holds no scored/<run_id>"):
        find_run(bucket)
    with pytest.raises(UserError, match="no-such-bucket"):
        find_run("s3://no-such-bucket/out")


def test_the_newest_row_of_an_image_is_read_from_any_shard(bucket: str) -> None:
    _shard(
        f"{bucket}/scored/r/0.parquet", _row("s3://x/1.jpg", "ring", day=3), _row("s3://x/2.jpg")
    )
    _shard(
        f"{bucket}/scored/r/1.parquet",
        _row("s3://x/1.jpg", "cross", "cross", day=2),
        _row("s3://x/2.jpg", status="undecodable", day=4),
    )
    run = read_run(find_run(bucket), {"1.jpg", "2.jpg"})
    assert run.rows["image_uri"].to_pylist() == ["s3://x/1.jpg", "s3://x/2.jpg"]
    assert run.rows["status"].to_pylist() == ["ok", "undecodable"]
    assert [d["label"] for d in run.rows["detections"][0].as_py()] == ["ring"]
    assert (run.num_rows, run.classes, run.model_id) == (4, CLASSES, "m1")


def test_the_highest_generation_is_newest_even_if_clocks_are_wrong(bucket: str) -> None:
    _shard(f"{bucket}/scored/r/0.parquet", _row("s3://x/1.jpg", "ring", day=9))  # null means 1
    _shard(
        f"{bucket}/scored/r/1.parquet",
        _row("s3://x/1.jpg", "cross", day=2) | {"generation": 3},
        _row("s3://x/1.jpg", "cross", "cross", day=4) | {"generation": 2},
    )
    run = read_run(find_run(bucket), {"1.jpg"})
    assert run.rows["generation"].to_pylist() == [3]
    assert [d["label"] for d in run.rows["detections"][0].as_py()] == ["cross"]


def test_a_run_of_version_1_is_read(bucket: str) -> None:
    """Its files lack the newer columns."""
    table = pa.Table.from_pylist([_row("s3://x/1.jpg", "ring")], schema=SCORED)
    metadata = scored_metadata(CLASSES, "m1", format_version=1)
    data = encode_parquet(table.select(FIRST_COLUMNS), metadata=metadata)
    storage.write_bytes(f"{bucket}/scored/r/0.parquet", data)
    run = read_run(find_run(bucket), {"1.jpg"})
    assert run.rows["generation"].to_pylist() == [None]
    assert run.rows["status"].to_pylist() == ["ok"]


def test_a_run_of_a_newer_version_is_refused_in_one_line(bucket: str) -> None:
    table = pa.Table.from_pylist([_row("s3://x/1.jpg", "ring")], schema=SCORED)
    metadata = scored_metadata(CLASSES, "m1", format_version=TABLE_VERSION + 1)
    storage.write_bytes(f"{bucket}/scored/r/0.parquet", encode_parquet(table, metadata=metadata))
    expected = "newer version of this program .format 3, this one reads 2.. Install the newer"
    with pytest.raises(UserError, match=expected) as caught:
        read_run(find_run(bucket), {"1.jpg"})
    assert "\n" not in str(caught.value)


def test_only_images_with_the_given_names_are_kept(bucket: str) -> None:
    names = ["a b.jpg", "a%20b.jpg", "11.jpg", "1.jpg"]
    _shard(f"{bucket}/scored/r/0.parquet", *(_row(f"s3://x/{name}") for name in names))
    _shard(f"{bucket}/scored/r/1.parquet", _row("s3://x/2.jpg"))
    run = read_run(find_run(bucket), {"1.jpg", "a%20b.jpg"})
    assert run.rows["image_uri"].to_pylist() == ["s3://x/1.jpg", "s3://x/a%20b.jpg"]
    assert run.num_rows == 5
    assert read_run(find_run(bucket), set()).rows.num_rows == 0


def test_a_file_that_is_not_a_table_of_a_run_is_named(bucket: str) -> None:
    uri = f"{bucket}/scored/r/0.parquet"
    _shard(uri, _row("s3://x/1.jpg", "ring"))
    whole = storage.read_bytes(uri)
    plain = pa.BufferOutputStream()
    pq.write_table(pa.table({"image_uri": ["s3://x/1.jpg"]}), plain)
    for data in (whole[:-10], b"", plain.getvalue().to_pybytes()):
        storage.write_bytes(uri, data)
        with pytest.raises(UserError, match="0.parquet: is not a table of a scoring run"):
            read_run(find_run(bucket), {"1.jpg"})


RUN, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.mark.parametrize(
    ("folder", "run_ids", "wrong"),
    [
        (
            RUN,
            (RUN, OTHER),
            "00000001.parquet: holds rows of run fedcba9876543210, expected run 0123",
        ),
        (
            RUN,
            (OTHER, RUN),
            "00000000.parquet: holds rows of run fedcba9876543210, expected run 0123",
        ),
        (RUN, (OTHER,), "00000000.parquet: holds rows of run fedcba9876543210"),
        (
            "july",
            (RUN, OTHER),
            "00000001.parquet: holds rows of run fedcba9876543210, expected run 0123",
        ),
    ],
)
def test_a_shard_of_another_run_with_the_same_model_is_refused(
    bucket: str, folder: str, run_ids: tuple[str, ...], wrong: str
) -> None:
    for number, run_id in enumerate(run_ids):
        row = _row(f"s3://x/{number}.jpg") | {"run_id": run_id}
        _shard(f"{bucket}/scored/{folder}/{number:08d}.parquet", row)
    with pytest.raises(UserError, match=wrong):
        read_run(find_run(bucket), {"no.jpg"})


def test_a_renamed_folder_is_read(bucket: str) -> None:
    for number in range(2):
        row = _row(f"s3://x/{number}.jpg") | {"run_id": RUN}
        _shard(f"{bucket}/scored/july/{number:08d}.parquet", row)
    assert read_run(find_run(bucket), {"1.jpg"}).num_rows == 2


def test_a_shard_of_another_detector_is_refused(bucket: str) -> None:
    _shard(f"{bucket}/scored/r/0.parquet", _row("s3://x/1.jpg"))
    _shard(f"{bucket}/scored/r/1.parquet", _row("s3://x/2.jpg"), classes=("cross", "ring"))
    with pytest.raises(UserError, match="1.parquet: comes from a detector with other classes"):
        read_run(find_run(bucket), {"1.jpg"})
