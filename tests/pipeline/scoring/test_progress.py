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
    return ScoreProgress(config, run_id="r", total=total, workers=lambda: 2)


def test_too_many_failures_stop_the_run_with_their_causes() -> None:
    counter = progress(1000, max_failures=0.01)
    counter.check(rows(7, "missing", "gone"))
    counter.check(rows(3, "undecodable", "no image"))
    with pytest.raises(JobError, match=r"11 of 1000 .*missing 7, undecodable 4.*no image"):
        counter.check(rows(1, "undecodable", "no image"))


def test_images_that_failed_before_do_not_count_for_max_failures() -> None:
    """The five images of a retry fail again: they are all of this command, and few of the run."""
    counter = ScoreProgress(
        ScoreConfig(images="a", checkpoint="b", output="c", max_failures=0.01),
        run_id="r",
        total=5,
        workers=lambda: 2,
        retried=[0],
        num_retried=5,
    )
    counter.check(rows(5, "denied"))


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
