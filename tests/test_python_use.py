"""docs/python.md, run as it stands, from images and a checkpoint to a page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)


@pytest.mark.usefixtures("ray_cluster")
def test_the_documents_code_runs_from_images_to_a_page(
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_checkpoint, "model/checkpoint")
    Path("inbox").mkdir()
    rng = np.random.default_rng(0)
    for name in ("1.jpg", "2.jpg"):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(f"inbox/{name}")
    for code in BLOCKS:
        exec(compile(code, str(DOCUMENT), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    boxes = [line for line in lines if re.fullmatch(r"(cat|dog) 0\.\d\d from \d+, \d+", line)]
    assert len(BLOCKS) == 3
    assert boxes
    assert "{'ok': 2}" in lines[len(boxes)]
    assert lines[len(boxes) + 1].startswith(f"{len(boxes)} boxes in ")  # the job found the same
    assert Path(lines[-1].removeprefix("open ")).is_file()
