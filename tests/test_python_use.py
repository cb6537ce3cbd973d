"""Tests of docs/python.md and of the notebook: their code runs unchanged, from images and a
checkpoint to a page or a table."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "detect.ipynb"


def _work_in(folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make model/checkpoint, whose operating points keep all boxes, and an inbox of two images."""
    monkeypatch.chdir(folder)
    shutil.copytree(checkpoint, "model/checkpoint")
    config = json.loads(Path("model/checkpoint/config.json").read_text())
    config["operating_points"] = {"cat": 0, "dog": 0}
    Path("model/checkpoint/config.json").write_text(json.dumps(config))
    Path("inbox").mkdir()
    rng = np.random.default_rng(0)
    for name in ("1.jpg", "2.jpg"):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(f"inbox/{name}")


@pytest.mark.usefixtures("ray_cluster")
def test_the_code_of_the_page_runs_from_images_to_a_report(
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _work_in(tmp_path, tiny_checkpoint, monkeypatch)
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


@pytest.mark.usefixtures("ray_cluster")
def test_the_notebook_runs_from_an_image_to_a_table(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell runs as in a notebook, where the value of its last line is shown."""
    _work_in(tmp_path, tiny_checkpoint, monkeypatch)
    names: dict[str, object] = {}
    shown: list[object] = []
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        *statements, last = ast.parse("".join(cell["source"])).body
        where = f"cell {number}"
        if not isinstance(last, ast.Expr):
            statements.append(last)
        exec(compile(ast.Module(statements, []), where, "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), where, "eval"), names))
    detections, picture, table, all_drawn, statuses, boxes, by_class = shown
    assert len(detections) == len(table) > 0  # type: ignore[arg-type]
    assert picture.size == all_drawn.size == (40, 30)  # type: ignore[attr-defined]
    assert statuses == {"ok": 2}
    assert list(boxes.columns) == ["image_uri", "label", "score"]  # type: ignore[attr-defined]
    assert (boxes["score"] >= 0.5).all()  # type: ignore[index]
    assert by_class["boxes"].sum() == len(names["boxes"])  # type: ignore[arg-type,index]


LOGGED = """
import logging, sys, types
if sys.argv[1] == "notebook":
    sys.modules["ipykernel"] = types.ModuleType("ipykernel")
import pipeline
if sys.argv[1] == "call":
    pipeline.show_log()
    pipeline.show_log(logging.WARNING)
logging.getLogger("pipeline.score").info("a line")
logging.getLogger("pipeline.score").warning("a warning")
logging.getLogger("other").info("not ours")
"""


@pytest.mark.parametrize(
    ("how", "expected"),
    [("notebook", ["a line", "a warning"]), ("call", ["a warning"]), ("script", [])],
)
def test_the_log_is_shown_once_in_notebooks_and_where_it_is_asked_for(
    how: str, expected: list[str]
) -> None:
    command = [sys.executable, "-c", LOGGED, how]
    done = subprocess.run(command, cwd=NOTEBOOK.parents[1], capture_output=True, text=True)
    lines = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    assert (done.returncode, lines) == (0, expected)


def test_the_names_on_the_page_stay_importable() -> None:
    import pipeline.detector
    from pipeline import Detections, Detector, compact, evaluate, export, report, show_log
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
        callable(function)
        for function in (show_log, run, compact.run, report.run, evaluate.run, export.run)
    )
    assert all(issubclass(error, Exception) for error in (UserError, ImageError, StorageError))
    assert all(hasattr(config, "output") for config in (ScoreConfig, CompactConfig, ReportConfig))
