#!/usr/bin/env python3
"""python jobs/benchmark.py accuracy --data ../shared/data/bccd --weights ../shared/weights/mobilenet_v2.pth
python jobs/benchmark.py proposals --data ../shared/data/bccd ../shared/data/fruit
python jobs/benchmark.py proposers --data ../shared/data/bccd ../shared/data/fruit
python jobs/benchmark.py decode --data ../shared/data/bccd/JPEGImages ../shared/data/fruit
python jobs/benchmark.py detector --images ../shared/data/bccd/JPEGImages
python jobs/benchmark.py score --images ../shared/data/bccd/JPEGImages
python jobs/benchmark.py scale
python jobs/benchmark.py memory --image ../shared/data/bccd/JPEGImages/BloodImage_00000.jpg --checkpoint MODEL
python jobs/benchmark.py train --data ../shared/data/bccd --weights ../shared/weights/mobilenet_v2.pth

What the project's figures come from. `accuracy`: a bucket, training, scoring, evaluation: mean average
precision, and the time of each step. `proposals`: recall and time of every proposer on labelled images.
`proposers`: what a detector learns from each, on several data sets, beside torchvision's Faster R-CNN.
`decode`: speed on good JPEGs beside the decoders that are installed. `detector`: images a second of `detect`
beside torchvision's heads and the floor. `score`: of the whole chain beside the bare Detector and Ray's
documented example, or of growing numbers of images. `scale`: a driver's memory and time for buckets of up to
ten million keys. `memory`: the peaks of driver and workers of a real job, for lists of growing size. `train`:
1, 2 and 4 workers, and our training step beside torchvision's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from jobs.benchmarks import (
    accuracy,
    decode,
    detector,
    memory,
    proposals,
    proposers,
    scale,
    score,
    train,
)
from jobs.benchmarks.accuracy import AccuracyConfig
from jobs.benchmarks.decode import DecodeConfig
from jobs.benchmarks.detector import DetectorBenchmarkConfig
from jobs.benchmarks.memory import MemoryConfig
from jobs.benchmarks.proposals import ProposalsConfig
from jobs.benchmarks.proposers import ProposersConfig
from jobs.benchmarks.scale import ScaleConfig
from jobs.benchmarks.score import ScoreBenchmarkConfig
from jobs.benchmarks.train import TrainBenchmarkConfig
from pipeline import cli

TASKS: Any = (
    Annotated[AccuracyConfig, tyro.conf.subcommand("accuracy")]
    | Annotated[ProposalsConfig, tyro.conf.subcommand("proposals")]
    | Annotated[ProposersConfig, tyro.conf.subcommand("proposers")]
    | Annotated[DecodeConfig, tyro.conf.subcommand("decode")]
    | Annotated[DetectorBenchmarkConfig, tyro.conf.subcommand("detector")]
    | Annotated[ScoreBenchmarkConfig, tyro.conf.subcommand("score")]
    | Annotated[ScaleConfig, tyro.conf.subcommand("scale")]
    | Annotated[MemoryConfig, tyro.conf.subcommand("memory")]
    | Annotated[TrainBenchmarkConfig, tyro.conf.subcommand("train")]
)
RUNS: dict[type, Callable[[Any], None]] = {
    AccuracyConfig: accuracy.run,
    ProposalsConfig: proposals.run,
    ProposersConfig: proposers.run,
    DecodeConfig: decode.run,
    DetectorBenchmarkConfig: detector.run,
    ScoreBenchmarkConfig: score.run,
    ScaleConfig: scale.run,
    MemoryConfig: memory.run,
    TrainBenchmarkConfig: train.run,
}


def run(config: Any) -> None:
    RUNS[type(config)](config)


if __name__ == "__main__":
    cli.main(TASKS, run, __doc__ or "")
