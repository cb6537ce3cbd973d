"""A training goes on with the workers that there is room for, and learns the same."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline import storage
from pipeline.draw_scenes import draw_split
from pipeline.training.state import STATE
from tests.pipeline.training_runs import (
    begin,
    config,
    driver,
    latest_checkpoint,
    second_node,
    steps_without_ray,
    train_workers,
    wait_for_checkpoint,
)

MANY = 3000
"""Iterations: more than are made until all has happened."""


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_cluster")
def test_a_node_that_goes_and_one_that_comes_change_the_number_of_workers_and_no_loss(
    tmp_path: Path, s3_client: Any
) -> None:
    """Two workers on two nodes; one node goes: one worker. Another comes: two."""
    draw_split(tmp_path / "scenes", "train", range(9), seed=0, size=(180, 220))
    s3_client.create_bucket(Bucket="elastic-runs")
    storage.upload_folder(tmp_path / "scenes", "s3://elastic-runs/shapes")
    output = "s3://elastic-runs/output"
    flags = config(
        *("s3://elastic-runs/shapes", output),
        num_workers=2,
        min_workers=1,
        iterations=MANY,
        validate_every=4,
    )
    address = ray.get_runtime_context().gcs_address
    with driver(flags) as process:
        with second_node(address):
            begin(process)
            wait_for_checkpoint(output, process, after="")
            first = train_workers(address)
            assert len(first) == 2
        second = wait_for_workers(address, process, 1, other_than=first)
        wait_for_checkpoint(output, process, after=latest_checkpoint(output))
        with second_node(address):
            wait_for_workers(address, process, 2, other_than=second)
            wait_for_checkpoint(output, process, after=latest_checkpoint(output))
    latest = storage.join(output, "train", latest_checkpoint(output), STATE)
    steps = json.loads(storage.read_bytes(latest))["history"]
    assert [row["iteration"] for row in steps] == list(range(1, len(steps) + 1))
    expected, _ = steps_without_ray(flags, len(steps))
    for row, alone in zip(steps, expected, strict=True):
        assert {key: row[key] for key in alone} == pytest.approx(alone, rel=1e-4)


def wait_for_workers(
    address: str, process: subprocess.Popen[bytes], count: int, *, other_than: list[int]
) -> list[int]:
    while len(found := train_workers(address)) != count or set(found) & set(other_than):
        assert process.poll() is None, f"the driver ended by itself, with {process.returncode}"
        time.sleep(0.1)
    return found
