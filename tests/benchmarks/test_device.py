"""The benchmark of one GPU: it runs with torch alone, and a step that fails costs only itself."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import device
from benchmarks.device import Step, main
from benchmarks.mixed_sizes import count_passes

BARE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING}:
            raise ImportError(f"this machine has no {name}")
sys.meta_path.insert(0, Blocked())
import benchmarks.device_steps
from benchmarks.device import main
sys.exit(main(["--step", sys.argv[1], "--dry-run", "--output", sys.argv[2]]))
"""
MISSING = {"ray", "pyarrow", "simplejpeg", "s3fs", "aiobotocore", "botocore", "boto3", "fsspec"}
MISSING |= {"tyro", "duckdb", "pycocotools", "tensorboardX", "defusedxml", "numba", "cv2", "scipy"}


@pytest.mark.parametrize("step", ["suppression", "feed"])
def test_a_step_runs_on_a_machine_with_torch_alone(step: str, tmp_path: Path) -> None:
    code = BARE.replace("{MISSING}", repr(MISSING))
    done = subprocess.run(
        [sys.executable, "-c", code, step, str(tmp_path)],
        cwd=device.CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) >= 2
    assert all(isinstance(value, str) for _, value in rows)


def test_a_step_that_fails_or_hangs_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (Step("no_such_step", 60, "fails"), Step("passes", 60, "counts"))
    monkeypatch.setattr(device, "STEPS", steps)
    assert main(["--dry-run", "--output", str(tmp_path)]) == 1
    written = json.loads((tmp_path / "results.json").read_text())
    assert "no_such_step" in written["no_such_step"]["error"]
    assert written["passes"]["rows"]
    table = (tmp_path / "table.txt").read_text()
    assert capsys.readouterr().out == table
    assert "  failed: KeyError" in table
    hanging = device._run(steps[1], device._parse(["--dry-run", "--output", "x"]), 0.01)
    assert hanging["error"].startswith("took more than")


def test_each_step_but_the_tests_is_a_function() -> None:
    from benchmarks import device_steps

    names = [step.name for step in device.STEPS if step.name != "tests"]
    assert all(callable(getattr(device_steps, name)) for name in names)
    assert sum(step.seconds for step in device.STEPS) < 12 * 60


def test_without_a_gpu_only_a_dry_run_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--output", str(tmp_path)])
    assert caught.value.code == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def test_the_commands_of_the_docs_are_accepted() -> None:
    pages = (device.CHECKOUT / "docs").glob("*.md")
    pattern = re.compile(r"python -m benchmarks\.device (--[^`\n]+)")
    commands = [line for page in pages for line in pattern.findall(page.read_text())]
    assert len(commands) >= 2
    for command in commands:
        assert device._parser().parse_args(shlex.split(command)).output


def test_passes_hold_eight_images_of_one_canvas() -> None:
    """At scale 64, 60 x 80 and 120 x 160 pixels get the canvas 64 x 96, and 80 x 60 the canvas 96 x 64."""
    sizes = [(60, 80), (120, 160)] * 5 + [(80, 60)] * 3
    made = count_passes(sizes, 32, 64, 120)
    assert made == [(3, (96, 64)), (8, (64, 96)), (2, (64, 96))]
    assert [n for n, _ in count_passes(sizes, 4, 64, 120)] == [4, 4, 2, 2, 1]
