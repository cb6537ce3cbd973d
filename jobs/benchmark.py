#!/usr/bin/env python3
"""python jobs/benchmark.py accuracy --data ../shared/data/bccd --weights ../shared/weights/mobilenet_v2.pth
python jobs/benchmark.py proposals --data ../shared/data/bccd ../shared/data/fruit
python jobs/benchmark.py decode --data ../shared/data/bccd/JPEGImages ../shared/data/fruit

What the project's figures come from. `accuracy`: a bucket, training, scoring, evaluation: mean average
precision, and the time of each step. `proposals`: recall and time of every proposer on labelled images.
`decode`: speed on good JPEGs beside the decoders that are installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from jobs import benchmark_accuracy, benchmark_decode, benchmark_proposals
from jobs.benchmark_accuracy import AccuracyConfig
from jobs.benchmark_decode import DecodeConfig
from jobs.benchmark_proposals import ProposalsConfig
from pipeline import cli

TASKS: Any = (
    Annotated[AccuracyConfig, tyro.conf.subcommand("accuracy")]
    | Annotated[ProposalsConfig, tyro.conf.subcommand("proposals")]
    | Annotated[DecodeConfig, tyro.conf.subcommand("decode")]
)


def run(config: AccuracyConfig | ProposalsConfig | DecodeConfig) -> None:
    if isinstance(config, AccuracyConfig):
        benchmark_accuracy.run(config)
    elif isinstance(config, ProposalsConfig):
        benchmark_proposals.run(config)
    else:
        benchmark_decode.run(config)


if __name__ == "__main__":
    cli.main(TASKS, run, __doc__ or "")
