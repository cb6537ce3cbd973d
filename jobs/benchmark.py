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

from jobs import (
    benchmark_accuracy,
    benchmark_decode,
    benchmark_detector,
    benchmark_memory,
    benchmark_proposals,
    benchmark_proposers,
    benchmark_scale,
    benchmark_score,
    benchmark_train,
)
from jobs.benchmark_accuracy import AccuracyConfig
from jobs.benchmark_decode import DecodeConfig
from jobs.benchmark_detector import DetectorBenchmarkConfig
from jobs.benchmark_memory import MemoryConfig
from jobs.benchmark_proposals import ProposalsConfig
from jobs.benchmark_proposers import ProposersConfig
from jobs.benchmark_scale import ScaleConfig
from jobs.benchmark_score import ScoreBenchmarkConfig
from jobs.benchmark_train import TrainBenchmarkConfig
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
    AccuracyConfig: benchmark_accuracy.run,
    ProposalsConfig: benchmark_proposals.run,
    ProposersConfig: benchmark_proposers.run,
    DecodeConfig: benchmark_decode.run,
    DetectorBenchmarkConfig: benchmark_detector.run,
    ScoreBenchmarkConfig: benchmark_score.run,
    ScaleConfig: benchmark_scale.run,
    MemoryConfig: benchmark_memory.run,
    TrainBenchmarkConfig: benchmark_train.run,
}


def run(config: Any) -> None:
    RUNS[type(config)](config)


if __name__ == "__main__":
    cli.main(TASKS, run, __doc__ or "")
