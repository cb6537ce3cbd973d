"""The benchmark of labels reads what it wrote and what its server answers."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.config import LabelsConfig
from benchmarks.labels import run


def test_every_box_and_every_label_file_is_read(tmp_path: Path) -> None:
    run(LabelsConfig(boxes=95, files=1_100, output=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [result["count"] for result in results] == [95, 1_100, 110, 1_100, 1_100]
    assert all(result["peak_mb"] > 0 for result in results)
