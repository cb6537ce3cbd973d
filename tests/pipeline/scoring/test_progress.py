"""A run logs its progress, and stops when too many images fail."""

from __future__ import annotations

import logging

import pyarrow as pa
import pytest

from pipeline.config import ScoreConfig
from pipeline.errors import JobError
from pipeline.schema import RESULT
from pipeline.scoring.progress import ScoreProgress
from tests.pipeline.record_cases import result


def rows(count: int, status: str = "ok", error: str | None = None) -> pa.Table:
    images = [
        {"image_uri": f"s3://b/{n}", "etag": "e", "size_bytes": 10, "shard": 0, "error": error}
        for n in range(count)
    ]
    made = result(pa.Table.from_pylist(images), status=status).to_pylist()
    return pa.Table.from_pylist(
        [row | {"detect_s": 0.5, "error": error} for row in made], schema=RESULT
    )


def progress(total: int, **flags: float) -> ScoreProgress:
    config = ScoreConfig(images="a", checkpoint="b", output="c", **flags)  # type: ignore[arg-type]
    return ScoreProgress(config, run_id="r", total=total, workers=2)


def test_an_outage_stops_the_run_before_its_rows_are_written() -> None:
    counter = progress(10_000)
    counter.check(rows(500))
    counter.check(rows(90, "denied", "ExpiredToken"))
    with pytest.raises(JobError, match=r"89 of the last 200 images \(ExpiredToken\)"):
        counter.check(rows(21, "unreadable", "ExpiredToken"))


def test_a_few_unreachable_images_among_good_ones_are_rows() -> None:
    counter = progress(10_000)
    for _ in range(30):
        counter.check(rows(20, "denied"))
        counter.check(rows(21))


def test_broken_images_do_not_count_as_an_outage() -> None:
    progress(10_000).check(rows(400, "undecodable"))


def test_a_job_of_fewer_images_than_the_window_is_not_stopped_as_an_outage() -> None:
    progress(150).check(rows(150, "denied"))


def test_max_unreachable_1_turns_the_outage_check_off() -> None:
    progress(10_000, max_unreachable=1.0).check(rows(400, "denied"))


def test_too_many_failures_stop_the_run_with_their_causes() -> None:
    counter = progress(1000, max_failures=0.01)
    counter.check(rows(7, "missing", "gone"))
    counter.check(rows(3, "undecodable", "no image"))
    with pytest.raises(JobError, match=r"11 of 1000 .*missing 7, undecodable 4.*no image"):
        counter.check(rows(1, "undecodable", "no image"))


def test_the_log_shows_rate_busy_share_and_statuses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
    counter = progress(10)
    with caplog.at_level(logging.INFO, logger="pipeline"):
        counter.count(rows(4))
        counter.count(rows(1, "missing"))
    assert "5 of 10 images" in caplog.text
    assert caplog.text.rstrip().endswith("Detectors busy 100%; ok 4, missing 1")
    assert counter.bytes_read == 50
