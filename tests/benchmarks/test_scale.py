"""Tests of the scale benchmark: the simulated bucket answers like S3, and the driver processes all keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.config import ScaleConfig
from benchmarks.scale import bucket_of, run
from pipeline import storage


def test_the_simulated_bucket_lists_every_key_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with bucket_of(12_345) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        listed = storage.list_objects("s3://photos/images")
    assert len({info.uri for info in listed}) == len({info.etag for info in listed}) == 12_345
    assert listed[-1].uri == "s3://photos/images/00001/2344.jpg"


def test_every_key_is_planned_and_gets_a_row(tmp_path: Path) -> None:
    run(ScaleConfig(keys=(2_500,), output=tmp_path))
    steps = json.loads((tmp_path / "results.json").read_text())["results"]
    notes = [step["note"] for step in steps]
    assert notes[1].startswith("2 objects")
    assert notes[3].startswith("2500 rows, 3 objects")
    assert notes[4] == "1 generation, 0 shards to do"
    assert all(step["peak_mb"] > 0 for step in steps)
