"""Jobs on a cluster that begins with a head without CPUs, and whose autoscaler starts nodes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from PIL import Image

from pipeline.draw_scenes import draw_split
from tests.autoscaling import Autoscaled, autoscaled
from tests.conftest import CHECKOUT

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cpu_nodes() -> Iterator[Autoscaled]:
    """Two nodes of two CPUs can come."""
    with autoscaled({"cpu": {"CPU": 2}}, most=2, idle_minutes=0.2) as cluster:
        yield cluster


def images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (40, 30), (number % 256, 90, 0)).save(folder / f"{number:03}.png")
    return folder


def statuses(output: Path) -> list[str]:
    table = ds.dataset(output / "scored", format="parquet").to_table(
        columns=["image_uri", "status"]
    )
    assert len(set(table["image_uri"].to_pylist())) == table.num_rows
    found: list[str] = table["status"].cast("string").to_pylist()
    return found


def test_scoring_starts_from_a_head_alone_and_its_nodes_go_afterwards(
    cpu_nodes: Autoscaled, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """No flag says that there are no GPUs: the cluster is asked for one, and CPUs are used."""
    flags = ("--images", images(tmp_path / "in", 24), "--checkpoint", tiny_checkpoint)
    done = cpu_nodes.run("jobs/score_bucket.py", *flags, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path / "out") == ["ok"] * 24
    assert re.search(r"waiting for a GPU, .* there: 1 node with no CPUs", done.stderr), done.stderr
    deadline = time.monotonic() + 120
    while cpu_nodes.node_pids():
        assert time.monotonic() < deadline, "the request was not withdrawn"
        time.sleep(1)
    # Nothing is left to do, so no node is started.
    again = cpu_nodes.run("jobs/score_bucket.py", *flags, "--output", tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert not cpu_nodes.node_pids()


def test_training_begins_with_a_head_alone(cpu_nodes: Autoscaled, tmp_path: Path) -> None:
    assert not cpu_nodes.node_pids()
    draw_split(tmp_path / "scenes", "train", range(6), seed=0, size=(90, 120))
    flags = ("--data", tmp_path / "scenes", "--output", tmp_path / "out", "--iterations", 2)
    flags += ("--backbone", "tiny", "--weights", "none", "--scale", 64, "--batch-size", 2)
    flags += ("--proposals", "grid", "--gpus-per-worker", 0, "--num-workers", 2)
    done = cpu_nodes.run("jobs/train.py", *flags, timeout_s=400)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "result.json").is_file()


def test_a_node_that_is_killed_in_the_middle_loses_no_row(
    cpu_nodes: Autoscaled, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    command = ["jobs/score_bucket.py", "--images", str(images(tmp_path / "in", 400))]
    command += ["--checkpoint", str(tiny_checkpoint), "--output", str(tmp_path / "out")]
    command += ["--num-workers", "2", "--gpus-per-worker", "0", "--shard-size", "20"]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(
            [sys.executable, *command], env=dict(cpu_nodes.environment), cwd=CHECKOUT, stderr=log
        )
    try:
        while not list((tmp_path / "out").glob("scored/*/*.parquet")):
            assert job.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        os.kill(next(iter(cpu_nodes.node_pids().values())), signal.SIGKILL)
        assert job.wait(300) == 0, (tmp_path / "log").read_text()
    finally:
        job.kill()
        job.wait()
    assert statuses(tmp_path / "out") == ["ok"] * 400


def test_a_node_type_that_never_comes_ends_the_job_with_what_to_check(
    cpu_nodes: Autoscaled, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    flags = ("--images", images(tmp_path / "in", 4), "--checkpoint", tiny_checkpoint)
    flags += ("--output", tmp_path / "out", "--gpus-per-worker", 1, "--wait-for-nodes", 12)
    done = cpu_nodes.run("jobs/score_bucket.py", *flags)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("failed: no node with 1 GPU came within 12 s (--wait-for-nodes)"), last
    assert "Check max_workers" in last


def test_a_gpu_that_comes_late_is_waited_for(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """CPUs are there first. The flags do not say that there are GPUs."""
    types = {"cpu": {"CPU": 2}, "gpu": {"CPU": 1, "GPU": 1}}
    flags = ("--images", images(tmp_path / "in", 24), "--checkpoint", tiny_checkpoint)
    with autoscaled(types, most=1, gpus_after_s=40) as cluster:
        done = cluster.run("-m", "tests.jobs.named_gpu_job", *flags, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path / "out") == ["ok"] * 24
    rows = ds.dataset(tmp_path / "out" / "scored", format="parquet").to_table(columns=["error"])
    assert set(rows["error"].to_pylist()) == {"['0']"}
    assert re.search(r"waiting for a GPU, or CPUs", done.stderr), done.stderr
