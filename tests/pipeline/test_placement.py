"""On a cluster of several kinds of nodes each stage runs where its resources are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[2]


def test_cpu_stages_run_on_cpu_nodes_and_the_detector_on_the_gpu_node(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(40):
        Image.new("RGB", (20, 20)).save(tmp_path / "in" / f"{number}.png")
    command = [sys.executable, "-m", "tests.pipeline.placed_chain"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "RAY_AUTH_MODE": "disabled"}
    environment["RAY_memory_monitor_refresh_ms"] = "0"
    done = subprocess.run(
        [*command, str(tmp_path / "in"), str(tmp_path / "out")],
        env=environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == 40
    assert ["detect", "gpu"] in found["places"]
    assert ["read", "cpu"] in found["places"]
    # Neither on the head; no Detector without a GPU.
    assert {kind for stage, kind in found["places"] if stage == "detect"} == {"gpu"}
    assert "head" not in {kind for _, kind in found["places"]}
