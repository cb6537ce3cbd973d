#!/usr/bin/env python3
"""python jobs/demo.py

Runs training and scoring end to end on this machine. Draws a labelled data set, uploads it to an S3 bucket,
starts a Ray cluster, submits the training and the scoring job, evaluates, and queries the Parquet in the
bucket.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # without an installed package

from pipeline.runtime.commands import Command, start

DEMO = Command(
    name="demo",
    config="demo.config:DemoConfig",
    run="demo.steps:run",
    summary="Run training and scoring end to end on this machine.",
    description="""
Draws a labelled data set, uploads it to an S3 bucket, starts a Ray cluster, submits the training and the
scoring job, evaluates, and queries the Parquet in the bucket. The S3 server and the Ray cluster are stopped
at the end; the results stay in --output.
""",
    on_ray=False,
    guarded=False,  # it ends its servers in order
)

if __name__ == "__main__":
    start(DEMO, f"python {DEMO.file}", sys.argv[1:])
