"""Tests of the scoring job as a process: flags, exit code, and lines on stderr."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from pipeline import record, storage
from pipeline.config import ScoreConfig
from pipeline.runtime import cluster, ending
from pipeline.runtime.cli import main
from pipeline.score import run
from tests.autoscaling import processes
from tests.pipeline.images.test_regions import write_900_megapixels

JOB = Path(__file__).resolve().parents[2] / "jobs" / "score_bucket.py"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")


def start(*flags: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(JOB), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command_line(config: ScoreConfig, *names: str) -> list[str]:
    """The flags of these values."""
    return [
        part
        for name in names
        for part in (f"--{name.replace('_', '-')}", str(getattr(config, name)))
    ]


def a_detector_decodes() -> bool:
    """Return whether a Detector has a child process that decodes for it."""
    commands, parents = dict(processes()), ending._parents()
    decoding = [parents.get(pid, 0) for pid, text in commands.items() if "fence_child" in text]
    return any("DetectorActor" in commands.get(parent, "") for parent in decoding)


def images(folder: Path, count: int) -> str:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(count):
        pixels = rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:03d}.jpg")
    return str(folder)


def test_the_job_is_executable() -> None:
    assert os.access(JOB, os.X_OK)
    assert JOB.read_text().startswith("#!/usr/bin/env python3\n")


def truncated(tmp_path: Path, checkpoint: Path) -> list[str]:
    folder = tmp_path / "truncated"
    shutil.copytree(checkpoint, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return ["--images", images(tmp_path / "in", 1), "--checkpoint", str(folder)]


def missing_bucket(tmp_path: Path, checkpoint: Path) -> list[str]:
    return ["--images", "s3://no-such-bucket/photos", "--checkpoint", str(checkpoint)]


def empty_prefix(tmp_path: Path, checkpoint: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return ["--images", str(tmp_path / "in"), "--checkpoint", str(checkpoint)]


def unknown_flag(tmp_path: Path, checkpoint: Path) -> list[str]:
    return ["--images", images(tmp_path / "in", 1), "--checkpoint", str(checkpoint), "--bach", "3"]


def zero_batch(tmp_path: Path, checkpoint: Path) -> list[str]:
    return [*missing_bucket(tmp_path, checkpoint), "--batch-size", "0"]


MISTAKES: dict[Callable[[Path, Path], list[str]], str] = {
    truncated: "the file is truncated or modified",
    missing_bucket: "s3://no-such-bucket",
    empty_prefix: "holds no image",
    unknown_flag: "--bach: no such flag. Did you mean --batch-size?",
    zero_batch: "--batch-size 0: must be above 0",
}


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_flag_gives_one_line_and_exit_code_2(
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mistake: Callable[[Path, Path], list[str]],
) -> None:
    """The job runs in this process, because importing torch takes longer than all cases together."""

    def no_cluster() -> None:
        raise AssertionError("connected to the cluster before the error was reported")

    monkeypatch.setattr(cluster, "connect", no_cluster)
    flags = [*mistake(tmp_path, tiny_checkpoint), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(JOB), *flags])
    with pytest.raises(SystemExit) as stop:
        main(ScoreConfig, run, "")
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert MISTAKES[mistake] in err
    assert (err.count("\n"), err.startswith("error: ")) == (1, True)
    assert not (tmp_path / "out" / "scored").exists()


def test_a_process_writes_the_error_to_stderr_and_exits_with_2(tmp_path: Path) -> None:
    """The cluster does not exist: connecting to it would wait."""
    flags = ["--images", str(tmp_path), "--checkpoint", str(tmp_path), "--output", str(tmp_path)]
    job = start(*flags, RAY_ADDRESS="127.0.0.1:1")
    _, err = job.communicate(timeout=200)
    assert job.returncode == 2
    assert err.splitlines()[-1].startswith(f"error: --output {tmp_path}: lies inside --images")
    assert "Traceback" not in err


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_driver_loses_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """SIGKILL after the first shard, then the same command: every image has one row, old shards are
    unchanged."""
    config = ScoreConfig(
        images=images(tmp_path / "in", 400),
        checkpoint=str(tiny_checkpoint),
        output=str(tmp_path / "out"),
        shard_size=8,
        batch_size=2,
    )
    flags = command_line(config, "images", "checkpoint", "output", "shard_size", "batch_size")
    address = ray.get_runtime_context().gcs_address
    job = start(*flags, RAY_ADDRESS=address)
    scored = tmp_path / "out" / "scored"
    deadline = time.monotonic() + 200
    while not list(scored.glob("*/*.parquet")) and job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.kill()
    _, err = job.communicate()
    before = {path: path.stat().st_mtime_ns for path in scored.glob("*/*.parquet")}
    assert 0 < len(before) < 50, err

    summary = run(config)

    assert (summary.images, summary.statuses, summary.complete) == (400, {"ok": 400}, True)
    assert summary.scored == 8 * (50 - len(before))
    objects = storage.list_objects(record.scored_uri(config.output, summary.run_id))
    uris = [
        uri
        for item in objects
        for uri in pq.read_table(io.BytesIO(storage.read_bytes(item.uri)))["image_uri"].to_pylist()
    ]
    assert uris == [str(path) for path in sorted((tmp_path / "in").iterdir())]
    assert before.items() <= {path: path.stat().st_mtime_ns for path in scored.glob("*/*")}.items()


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("ray_cluster")
def test_a_driver_killed_inside_an_image_of_900_megapixels_loses_nothing(
    tmp_path: Path, rpn_checkpoint: Path
) -> None:
    """The same command scores the image anew, with the boxes of an undisturbed run."""
    (tmp_path / "in").mkdir()
    write_900_megapixels(tmp_path / "in" / "a.tif")
    config = ScoreConfig(
        images=str(tmp_path / "in"),
        checkpoint=str(rpn_checkpoint),
        output=str(tmp_path / "out"),
        tile=2048,
        max_bytes=400_000_000,
    )
    flags = command_line(config, "images", "checkpoint", "output", "tile", "max_bytes")
    job = start(*flags, RAY_ADDRESS=ray.get_runtime_context().gcs_address)
    while not a_detector_decodes():
        assert job.poll() is None, job.communicate()
        time.sleep(0.1)
    time.sleep(3)  # some tiles
    assert job.poll() is None, job.communicate()
    job.kill()
    job.communicate()
    assert not list((tmp_path / "out").glob("scored/*/*.parquet"))

    summary = run(config)
    assert (summary.scored, summary.statuses, summary.complete) == (1, {"ok": 1}, True)
    run(replace(config, output=str(tmp_path / "undisturbed")))
    rows = [
        pq.read_table(path).drop_columns(["scored_at"]).to_pylist()
        for output in ("out", "undisturbed")
        for path in (tmp_path / output).glob("scored/*/*.parquet")
    ]
    assert rows[0] == rows[1]
    assert rows[0][0]["num_tiles"] == 361
    assert rows[0][0]["detections"]
