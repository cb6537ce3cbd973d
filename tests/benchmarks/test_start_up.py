"""Tests of the benchmark of a job's start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.config import StartUpConfig
from benchmarks.start_up import STEPS, run, table


def test_the_first_job_does_not_count_in_the_median() -> None:
    rounds = [dict.fromkeys(STEPS, seconds) for seconds in (100.0, 1.0, 3.0)]
    assert table(rounds).splitlines()[-1] == (
        "| median of the later ones | 2.0 | 2.0 | 2.0 | 2.0 | 2.0 |"
    )


@pytest.mark.long
def test_each_step_of_a_submitted_job_takes_some_time(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg")
    run(
        StartUpConfig(
            image=tmp_path / "photo.jpg",
            checkpoint=str(tiny_checkpoint),
            rounds=1,
            output=tmp_path / "output",
        )
    )
    (seconds,) = json.loads((tmp_path / "output" / "results.json").read_text())["results"]
    times = [seconds[step] for step in STEPS]
    assert 0 < times[0]
    assert times == sorted(times)
