"""The warning that the images of a run look unlike those of its calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastrcnn.metrics import ImageDetections, measured_histogram
from fastrcnn.metrics.score_shift import histogram_json
from pipeline import storage
from pipeline.results.reliability_figure import reliability_section
from pipeline.results.scored import RunFiles, find_run
from pipeline.results.shifts import shifts_of_run, warn_of_shifts
from tests.pipeline.scored_runs import CLASSES, image, write_shard

BOX = (0.0, 0.0, 9.0, 9.0)


def scores(number: int, seed: int, high: float) -> list[list[float]]:
    """Scores of cats in each image; half of the images have two cats."""
    random = np.random.default_rng(seed)
    return [
        [*random.beta(8, 8 / high - 8, 2 if k % 2 else 0).tolist(), *random.beta(0.3, 9, 5).tolist()]
        for k in range(number)
    ]  # fmt: skip


def checkpoint(**changes: Any) -> dict[str, Any]:
    """The config.json of a detector that was calibrated on 100 images with sure cats."""
    detections = [
        ImageDetections(
            boxes=np.zeros((len(one), 4)), labels=np.ones(len(one), int), scores=np.array(one)
        )
        for one in scores(100, 1, 0.9)
    ]
    histogram = histogram_json(measured_histogram(detections, len(CLASSES)))
    return {
        "model": {"calibration": [[1, 0], [1, 0]]},
        "training": {"calibration": {"scores": histogram}},
    } | changes


def write(folder: Path, high: float) -> RunFiles:
    rows = [
        image(f"s3://b/{k}.jpg", *(("cat", score, BOX) for score in one))
        for k, one in enumerate(scores(200, 2, high))
    ]
    bad = image("s3://b/bad.jpg", status="undecodable", error="no")
    write_shard(str(folder), *rows[:90], bad)
    write_shard(str(folder), *rows[90:], shard=1)
    described = {"config": {}, "checkpoint": checkpoint()}
    uri = storage.join(str(folder), "runs", "r1", "config.json")
    storage.write_bytes(uri, json.dumps(described).encode())
    return find_run(str(folder))


def test_images_of_the_same_kind_are_not_reported(tmp_path: Path) -> None:
    assert shifts_of_run(write(tmp_path, 0.9).uris, checkpoint(), CLASSES) == ()


def test_unsure_scores_are_reported_with_the_cure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_shifts(write(tmp_path, 0.6).uris, "r1", checkpoint(), CLASSES)
    assert "look unlike those that the scores were calibrated on" in caplog.text
    assert "cat (shift " in caplog.text
    assert "jobs/calibrate.py --sample" in caplog.text


def test_an_older_checkpoint_is_not_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = write(tmp_path, 0.6)
    for older in (
        {},
        checkpoint(training=None),
        checkpoint(training={"calibration": {"images": 3}}),
        checkpoint(model={"calibration": None}),
    ):
        assert shifts_of_run(files.uris, older, CLASSES) is None
    assert caplog.text == ""
    assert shifts_of_run(files.uris, checkpoint(), ("cat",)) is None
    assert "cannot be used" in caplog.text


def test_a_finished_run_is_not_failed_by_the_comparison(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_shifts([str(tmp_path / "gone.parquet")], "r1", checkpoint(), CLASSES)
    assert "were not compared" in caplog.text


def test_the_section_of_the_report_says_it_with_escaped_names(tmp_path: Path) -> None:
    shifts = shifts_of_run(write(tmp_path, 0.6).uris, checkpoint(), CLASSES)
    assert shifts
    section = reliability_section(None, shifts, ("<b>cat</b>", "dog"))
    assert "&lt;b&gt;cat&lt;/b&gt;" in section
    assert "<b>" not in section
    assert reliability_section(None, (), CLASSES) == ""
