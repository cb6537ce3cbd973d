"""Tests of docs/python.md: its code runs unchanged, from images and a checkpoint to a page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)


@pytest.mark.usefixtures("ray_cluster")
def test_the_code_of_the_page_runs_from_images_to_a_report(
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_checkpoint, "model/checkpoint")
    config = json.loads(Path("model/checkpoint/config.json").read_text())
    config["operating_points"] = {"cat": 0, "dog": 0}  # so that all boxes of the job are printed
    Path("model/checkpoint/config.json").write_text(json.dumps(config))
    Path("inbox").mkdir()
    rng = np.random.default_rng(0)
    for name in ("1.jpg", "2.jpg"):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(f"inbox/{name}")
    for code in BLOCKS:
        exec(compile(code, str(DOCUMENT), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    boxes = [line for line in lines if re.fullmatch(r"(cat|dog) 0\.\d\d from \d+, \d+", line)]
    assert len(BLOCKS) == 4
    assert boxes
    assert re.fullmatch(r"Detections\(\d+: .*; scores .*\)", lines[len(boxes)])
    assert re.fullmatch(r"\d (cat|dog)", lines[len(boxes) + 1])
    assert "label_id" in lines[len(boxes) + 2]
    with Image.open("boxes.png") as picture:
        assert picture.size == (40, 30)
    assert "{'ok': 2}" in lines[-3]
    assert lines[-2].startswith(f"{len(boxes)} boxes in ")  # the job gave the same boxes
    assert Path(lines[-1].removeprefix("open ")).is_file()


def test_the_names_on_the_page_stay_importable() -> None:
    import pipeline.detector
    from pipeline import Detections, Detector, compact, evaluate, export, report
    from pipeline.config import CompactConfig, ReportConfig, ScoreConfig
    from pipeline.errors import UserError
    from pipeline.images import ImageError
    from pipeline.results import config as old_place
    from pipeline.score import run
    from pipeline.storage import StorageError

    assert old_place.CompactConfig is CompactConfig
    assert old_place.ReportConfig is ReportConfig
    assert pipeline.detector.Detector is Detector
    assert pipeline.detector.Detections is Detections
    assert all(
        callable(function) for function in (run, compact.run, report.run, evaluate.run, export.run)
    )
    assert all(issubclass(error, Exception) for error in (UserError, ImageError, StorageError))
    assert all(hasattr(config, "output") for config in (ScoreConfig, CompactConfig, ReportConfig))
