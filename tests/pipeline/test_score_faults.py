"""Faults of the store and of the disk during a whole run. `tests/soak/` kills processes."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

from pipeline import storage
from pipeline.config import ScoreConfig
from pipeline.errors import JobError, UserError
from pipeline.score import run
from pipeline.storage import StorageError
from tests.fault_proxy import FaultyProxy, serving
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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_reported_and_the_run_continues_when_there_is_space(
    tmp_path: Path, small_disk: Path, tiny_checkpoint: Path
) -> None:
    config = ScoreConfig(
        images=local_images(tmp_path / "in", 60),
        checkpoint=str(tiny_checkpoint),
        output=str(small_disk / "out"),
        shard_size=2,
    )
    with pytest.raises(StorageError, match="No space left on device"):
        run(config)
    before = rows(config.output)
    assert len(before) < 60  # every existing file is whole and can be read
    assert len(before) % 2 == 0

    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
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
