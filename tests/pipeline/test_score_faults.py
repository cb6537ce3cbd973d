"""Faults of the store and of the disk during a whole run. `tests/soak/` kills processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

import pipeline
from pipeline import compact, export, storage
from pipeline.config import CompactConfig, ExportConfig, ScoreConfig
from pipeline.errors import JobError, UserError
from pipeline.record import plan
from pipeline.results.scored import find_run, read_run
from pipeline.score import run
from pipeline.scoring.selection import select
from pipeline.storage import StorageError
from tests.fault_proxy import FaultyProxy, serving
from tests.pipeline.small_disk import small_disk
from tests.soak.images import drawn_images

# Ray 2.60 sets its own deprecated settings whenever it copies a DataContext.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.usefixtures("ray_cluster"),
]


def local_images(folder: Path, count: int) -> str:
    folder.mkdir()
    for name, data in drawn_images(count).items():
        (folder / name).write_bytes(data)
    return str(folder)


def rows(output: str) -> list[tuple[str, str]]:
    """Return (image_uri, status) of every row under scored/, read with pyarrow."""
    if not storage.list_objects(f"{output}/scored", missing_ok=True):
        return []
    filesystem, path = storage.arrow_filesystem(f"{output}/scored")
    table = ds.dataset(path, filesystem=filesystem, format="parquet").to_table(
        columns=["image_uri", "status"]
    )
    return list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))


def test_credentials_that_expire_stop_the_run_and_leave_no_row(
    bucket: str,
    tiny_checkpoint: Path,
    worker_proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No shard with denied images is written. With valid credentials, the same command finishes."""
    images = {f"{bucket}/in/{name}": data for name, data in drawn_images(260).items()}
    for uri, data in images.items():
        storage.write_bytes(uri, data)
    config = ScoreConfig(
        images=f"{bucket}/in",
        checkpoint=str(tiny_checkpoint),
        output=f"{bucket}/out",
        shard_size=250,
    )
    monkeypatch.setattr(worker_proxy, "faults", ["pass"] * 80)
    monkeypatch.setattr(worker_proxy, "forever", "403")
    with pytest.raises(JobError, match="run the same command again"):
        run(config)
    assert {status for _, status in rows(config.output)} <= {"ok"}

    monkeypatch.undo()
    summary = run(config)
    assert (summary.statuses, summary.complete) == ({"ok": 260}, True)
    assert Counter(uri for uri, _ in rows(config.output)) == Counter(images.keys())


def counted_by_readers(output: str, folder: Path) -> dict[str, int]:
    """Count images by the status of their newest row, as each reader does; they must agree."""
    macros = Path(pipeline.__file__).with_name("detections.sql").read_text()
    with duckdb.connect() as database:
        database.execute(macros)
        query = f"SELECT status, count(*) FROM newest('{output}/scored/*/*.parquet') GROUP BY ALL"
        by_macro = dict(database.execute(query).fetchall())
        (boxes,) = database.execute(
            f"SELECT count(*) FROM detections('{output}/scored/*/*.parquet')"
        ).fetchall()[0]
    (made,) = compact.run(CompactConfig(scored=output, output=str(folder)))
    assert (made.images, made.boxes) == (sum(by_macro.values()), boxes)
    names = frozenset(storage.basename(uri) for uri, _ in rows(output))
    scored_run = read_run(find_run(output), names)
    assert Counter(scored_run.rows["status"].to_pylist()) == by_macro
    written = export.run(
        ExportConfig(scored=output, output=str(folder), format="coco", min_score=0.0)
    )
    assert (written.images, written.boxes) == (by_macro["ok"], boxes)
    return by_macro


def test_images_that_were_denied_for_a_while_are_scored_by_the_same_command(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Three of forty files may not be read. Readers take the rows of the retry generation."""
    folder = Path(local_images(tmp_path / "in", 40))
    output = str(tmp_path / "out")
    hidden = sorted(folder.iterdir())[5:8]
    config = ScoreConfig(
        images=str(folder), checkpoint=str(tiny_checkpoint), output=output, shard_size=10
    )
    plan.extend(output, select(str(folder)).listed, shard_size=10)
    kept = {path: path.read_bytes() for path in hidden}
    times = {path: path.stat().st_mtime_ns for path in hidden}
    for path in hidden:
        path.unlink()
    first = run(config)
    assert (first.statuses, first.complete) == ({"ok": 37, "missing": 3}, True)
    assert run(config).scored == 0

    for path, data in kept.items():
        path.write_bytes(data)
        os.utime(path, ns=(times[path], times[path]))
    estimate = run(replace(config, retry=("missing",), dry_run=True))
    assert not estimate.complete
    again = run(replace(config, retry=("missing",)))
    assert (again.scored, again.images, again.statuses) == (3, 40, {"ok": 40})
    assert again.run_id == first.run_id
    assert len(rows(output)) == 43
    assert counted_by_readers(output, tmp_path / "flat") == {"ok": 40}


def test_a_list_of_a_wrong_bucket_stops_the_run_and_leaves_no_row(
    bucket: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    names = drawn_images(60)
    lines = [f"{bucket}-mistyped/{name},{n:032x}" for n, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("\n".join(["image_uri,etag", *lines]))
    config = ScoreConfig(
        images=str(tmp_path / "list.csv"),
        checkpoint=str(tiny_checkpoint),
        output=f"{bucket}/out",
        shard_size=5,
    )
    with pytest.raises(
        JobError, match=r"only 0 of the last 60 images \(unreadable: .*NoSuchBucket"
    ):
        run(config)
    assert rows(config.output) == []
    accepted = run(replace(config, max_unreachable=1.0))
    assert (accepted.statuses, accepted.complete) == ({"unreadable": 60}, True)


@pytest.fixture
def driver_proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The S3 endpoint of this process."""
    with serving(FaultyProxy(s3)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


FAULTS = ("503", "reset", "lost", "late", "short", "403")


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
def test_every_image_has_one_row_after_any_request_of_the_driver_failed(
    bucket: str, tiny_checkpoint: Path, driver_proxy: FaultyProxy, fault: str
) -> None:
    """Each test fails another request; after a 403 all fail, as if the driver died."""
    images = {f"{bucket}/in/{name}": data for name, data in drawn_images(6).items()}
    for uri, data in images.items():
        storage.write_bytes(uri, data)
    for number in range(FAULTS.index(fault), 1000, len(FAULTS)):
        config = ScoreConfig(
            images=f"{bucket}/in",
            checkpoint=str(tiny_checkpoint),
            output=f"{bucket}/out-{number}",
            shard_size=3,
        )
        driver_proxy.requests.clear()
        driver_proxy.faults = ["pass"] * number + [fault]
        driver_proxy.forever = "403" if fault == "403" else None
        if fault == "403":
            with contextlib.suppress(UserError, JobError, StorageError):
                run(config)
        else:
            assert run(config).complete
        reached = number < len(driver_proxy.requests)
        driver_proxy.forever = None
        driver_proxy.faults = []
        assert run(config).complete
        assert Counter(rows(config.output)) == Counter((uri, "ok") for uri in images)
        if not reached:
            break
    assert number > 10, "too few requests to be true"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB in memory."""
    with small_disk(tmp_path / "disk", "256k") as folder:
        yield folder


def test_a_full_disk_is_reported_and_the_run_continues_when_there_is_space(
    tmp_path: Path, disk: Path, tiny_checkpoint: Path
) -> None:
    config = ScoreConfig(
        images=local_images(tmp_path / "in", 60),
        checkpoint=str(tiny_checkpoint),
        output=str(disk / "out"),
        shard_size=2,
    )
    with pytest.raises(StorageError, match="No space left on device"):
        run(config)
    before = rows(config.output)
    assert len(before) < 60  # every existing file is whole and can be read
    assert len(before) % 2 == 0

    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    summary = run(config)
    assert (summary.statuses, summary.complete) == ({"ok": 60}, True)
    assert summary.scored == 60 - len(before)
    assert len({uri for uri, _ in rows(config.output)}) == len(rows(config.output)) == 60


def test_readers_see_whole_shards_only_while_a_run_writes(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """DuckDB, Polars and pyarrow read all files under scored/ repeatedly."""
    config = ScoreConfig(
        images=local_images(tmp_path / "in", 120),
        checkpoint=str(tiny_checkpoint),
        output=str(tmp_path / "out"),
        shard_size=3,
        batch_size=4,
    )
    scored, pattern = tmp_path / "out" / "scored", str(tmp_path / "out/scored/**/*.parquet")
    done = threading.Event()
    counted: dict[str, list[int]] = {"duckdb": [], "polars": [], "pyarrow": []}
    errors: list[Exception] = []

    def read() -> None:
        while not done.wait(0.01):
            if not list(scored.rglob("*.parquet")):
                continue
            try:
                query = f"SELECT count(*), count(DISTINCT image_uri) FROM '{pattern}'"
                counts = duckdb.sql(query).fetchall()[0]
                assert counts[0] == counts[1]
                counted["duckdb"].append(counts[0])
                counted["polars"].append(pl.scan_parquet(pattern).select(pl.len()).collect().item())
                counted["pyarrow"].append(ds.dataset(scored, format="parquet").to_table().num_rows)
            except Exception as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        summary = run(config)
    finally:
        done.set()
        reader.join()
    assert errors == []
    assert summary.complete
    for counts in counted.values():
        assert all(count % 3 == 0 for count in counts)
        assert counts == sorted(counts)
        assert any(0 < count < 120 for count in counts), "it was never read while the run wrote"


def planned_in_a_bucket(folder: Path, bucket: str, checkpoint: Path) -> ScoreConfig:
    """Images and checkpoint are local: of the bucket, workers read only the plan."""
    return ScoreConfig(
        images=local_images(folder / "in", 30),
        checkpoint=str(checkpoint),
        output=f"{bucket}/out",
        shard_size=10,
    )


def test_a_part_of_the_plan_that_one_try_cannot_read_is_tried_again(
    tmp_path: Path,
    bucket: str,
    tiny_checkpoint: Path,
    worker_proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With more nodes, the next try is on another one. This cluster has one node."""
    worker_proxy.requests.clear()
    monkeypatch.setattr(worker_proxy, "faults", ["403", "403"])
    summary = run(planned_in_a_bucket(tmp_path, bucket, tiny_checkpoint))
    assert (summary.statuses, summary.complete) == ({"ok": 30}, True)
    assert worker_proxy.requests.count("GET 403") == 2


def test_a_part_of_the_plan_that_no_node_can_read_ends_the_run_in_one_line(
    tmp_path: Path,
    bucket: str,
    tiny_checkpoint: Path,
    worker_proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = planned_in_a_bucket(tmp_path, bucket, tiny_checkpoint)
    monkeypatch.setattr(worker_proxy, "forever", "403")
    with pytest.raises(JobError, match="no node can read what the run needs, after .* on 1 of 1"):
        run(config)
    assert rows(config.output) == []
    monkeypatch.undo()
    assert run(config).complete
