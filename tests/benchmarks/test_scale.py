"""The simulated bucket answers as S3 does, and the benchmark of a driver goes through all of it."""

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
        found = storage.list_objects("s3://photos/images")
    assert len({info.uri for info in found}) == len({info.etag for info in found}) == 12_345
    assert found[-1].uri == "s3://photos/images/00001/2344.jpg"


def test_each_key_is_planned_scored_and_done(tmp_path: Path) -> None:
    run(ScaleConfig(keys=(2_500,), output=tmp_path))
    steps = json.loads((tmp_path / "results.json").read_text())["results"]
    said = [step["said"] for step in steps]
    assert said[1].startswith("2 objects")
    assert said[3].startswith("2500 rows, 3 objects")
    assert said[4] == "1 generation, 0 shards to do"
    assert all(step["peak_mb"] > 0 for step in steps)
