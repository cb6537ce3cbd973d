"""Tests of the training job as a process: flags, exit code, and one line on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastrcnn.checkpoint import load_checkpoint
from pipeline import train
from pipeline.config import TrainConfig
from pipeline.draw_scenes import draw_split
from pipeline.runtime.cli import main

JOB = Path(__file__).resolve().parents[2] / "jobs" / "train.py"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    draw_split(folder, "train", range(3), seed=0)
    (folder / "ImageSets" / "Main" / "empty.txt").write_text("")
    return folder


def exit_of(monkeypatch: pytest.MonkeyPatch, *flags: str) -> object:
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    with pytest.raises(SystemExit) as caught:
        main(TrainConfig, train.run, "")
    return caught.value.code


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--split", "empty"], "empty"),
        (["--split", "holdout"], "holdout"),
        (["--classes", "zebra"], "zebra"),
        (["--iterations", "0"], "--iterations 0"),
        (["--iterations", "5", "--epochs", "1"], "both say how long"),
        (["--batch-size", "3", "--num-workers", "2"], "same number of images"),
        (["--max-failures", "2"], "--max-failures 2"),
    ],
)
def test_a_wrong_flag_gives_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shapes: Path,
    tmp_path: Path,
    flags: list[str],
    reason: str,
) -> None:
    base = ["--data", str(shapes), "--output", str(tmp_path / "out"), "--backbone", "tiny"]
    assert exit_of(monkeypatch, *base, "--weights", "none", *flags) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert reason in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("s3")
def test_the_error_names_a_missing_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data", "s3://no-such-bucket/x", "--output", str(tmp_path))
    assert exit_of(monkeypatch, *flags) == 2
    assert "no-such-bucket" in capsys.readouterr().err


def test_the_process_refuses_an_unknown_flag() -> None:
    done = subprocess.run(
        [sys.executable, JOB, "--data", "x", "--output", "y", "--bach-size", "4"],
        capture_output=True,
    )
    assert done.returncode == 2
    assert b"bach-size" in done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_the_file_starts_ray_on_this_machine_and_trains(shapes: Path, tmp_path: Path) -> None:
    flags = (
        "--backbone tiny --weights none --proposals opencv --max-proposals 50 --scale 96 --fc-dim 16"
        " --rois-per-image 16 --batch-size 2 --iterations 2 --preset paper"
    ).split()
    output = tmp_path / "model"
    done = subprocess.run(
        [sys.executable, JOB, "--data", shapes, "--output", output, *flags],
        cwd=tmp_path,
        env=os.environ | {"RAY_memory_monitor_refresh_ms": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    checkpoint = load_checkpoint(output / "checkpoint")
    assert checkpoint.proposals.name == "opencv"
    assert checkpoint.model.config.pooling == "max"
    assert bool((checkpoint.model.head.delta_std[1:] != 1).any())  # measured on the training set
