#!/usr/bin/env python3
"""python jobs/demo.py

The main job end to end on this machine: draws a labelled data set, puts it into an S3 bucket, starts a Ray
cluster, submits the training and the scoring job to it, evaluates, and queries the Parquet in the bucket.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from pipeline.runtime.commands import Command, start

DEMO = Command(
    name="demo",
    config="demo.config:DemoConfig",
    run="demo.steps:run",
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
