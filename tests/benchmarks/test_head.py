"""Tests of the benchmark of a head node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.config import HeadConfig
from benchmarks.head import kind_of, run


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("/lib/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp/session/logs", "GCS"),
        ("/lib/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/s", "raylet"),
        ("python -u /lib/ray/dashboard/agent.py --node-ip-address=10.0.0.1", "raylet"),
        ("python /lib/ray/dashboard/dashboard.py --host=127.0.0.1", "dashboard"),
        ("python -u /lib/ray/autoscaler/_private/monitor.py", "helpers"),
        ("python jobs/score_bucket.py --images in", "driver"),
    ],
)
def test_processes_are_counted_by_kind(command: str, kind: str) -> None:
    assert kind_of(command) == kind


@pytest.mark.long
def test_a_head_of_4_gb_is_enough(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The processes leave a third for Ray's object store and the system (deploy/rayjob.yaml)."""
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg")
    run(
        HeadConfig(
            image=tmp_path / "photo.jpg",
            checkpoint=str(tiny_checkpoint),
            keys=2000,
            output=tmp_path / "head",
        )
    )
    peaks = json.loads((tmp_path / "head" / "results.json").read_text())["results"]
    assert {"GCS", "raylet", "dashboard", "driver", "all"} <= peaks.keys()
    assert peaks["driver"] > 100
    assert peaks["all"] < 2700
