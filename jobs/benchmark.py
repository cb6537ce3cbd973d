#!/usr/bin/env python3
"""python jobs/benchmark.py accuracy --data ../shared/data/bccd --weights ../shared/weights/mobilenet_v2.pth
python jobs/benchmark.py proposals --data ../shared/data/bccd ../shared/data/fruit

What the project's figures come from. `accuracy`: a bucket, training, scoring, evaluation: mean average
precision, and the time of each step. `proposals`: recall and time of every proposer on labelled images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from jobs import benchmark_accuracy, benchmark_proposals
from jobs.benchmark_accuracy import AccuracyConfig
from jobs.benchmark_proposals import ProposalsConfig
from pipeline import cli

TASKS: Any = (
    Annotated[AccuracyConfig, tyro.conf.subcommand("accuracy")]
    | Annotated[ProposalsConfig, tyro.conf.subcommand("proposals")]
)


def run(config: AccuracyConfig | ProposalsConfig) -> None:
    if isinstance(config, AccuracyConfig):
        benchmark_accuracy.run(config)
    else:
        benchmark_proposals.run(config)


if __name__ == "__main__":
    cli.main(TASKS, run, __doc__ or "")
