#!/usr/bin/env python3
"""python jobs/demo.py

The main job end to end on this machine: draws a labelled data set, puts it into an S3 bucket, starts a Ray
cluster, submits the training and the scoring job to it, evaluates, and queries the Parquet in the bucket.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from pipeline.commands import Command, start
from pipeline.flags import Group, Groups

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Flags of `jobs/demo.py`."""

    output: Path = CHECKOUT / "demo-output"
    """Local folder for what stays: boxes.png, results/, models/, logs/."""
    train: int = 300
    """Labelled images to train on."""
    val: int = 40
    """Labelled images to validate on."""
    test: int = 90
    """Labelled images to evaluate on."""
    score: int = 110
    """Files in the bucket to score: the test images, others, and a tenth broken on purpose."""
    iterations: int = 1500
    """SGD steps."""
    seed: int = 0
    """Seed of the scenes."""
    expected_map: float = 0.6
    """The demo fails when the VOC07 mAP on the test images is below this."""
    stay: bool = False
    """When done, keep bucket, cluster and dashboard until Ctrl-C."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Run", common=("output", "stay", "seed")),
        Group(title="Size", common=("train", "val", "test", "score", "iterations")),
        Group(title="Check", common=("expected_map",)),
    )


DEMO = Command(
    name="demo",
    config="jobs.demo:DemoConfig",
    run="jobs.demo_steps:run",
    summary="Run the main job end to end on this machine.",
    description="""
Draws a labelled data set, puts it into an S3 bucket, starts a Ray cluster, submits the training and the
scoring job to it, evaluates, and queries the Parquet in the bucket. Bucket and cluster are servers of the
demo and end with it; results stay in --output.
""",
    on_ray=False,
)

if __name__ == "__main__":
    start(DEMO, f"python {DEMO.file}", sys.argv[1:])
