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

Measures the project's figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where nothing is installed

from pipeline.runtime.commands import Command, dispatch


def _task(name: str, config: str, summary: str) -> Command:
    return Command(
        name=name,
        config=f"benchmarks.config:{config}",
        run=f"benchmarks.{name}:run",
        summary=summary,
        on_ray=False,
    )


TASKS = (
    _task(
        "accuracy",
        "AccuracyConfig",
        "Train, score and evaluate on a bucket: mean average precision, and the time of each step.",
    ),
    _task(
        "proposals",
        "ProposalsConfig",
        "Measure recall and time of every proposer on labelled images.",
    ),
    _task(
        "proposers",
        "ProposersConfig",
        "Compare the detectors that learn from each proposer, on several data sets, with torchvision's"
        " Faster R-CNN.",
    ),
    _task(
        "decode",
        "DecodeConfig",
        "Measure decoding speed on good JPEGs, beside the other decoders that are installed.",
    ),
    _task(
        "detector",
        "DetectorBenchmarkConfig",
        "Measure images a second of `detect`, beside torchvision's heads and the theoretical floor.",
    ),
    _task(
        "score",
        "ScoreBenchmarkConfig",
        "Measure the whole scoring job beside the bare Detector and Ray's documented example, or on"
        " growing numbers of images.",
    ),
    _task(
        "scale",
        "ScaleConfig",
        "Measure a driver's memory and time for buckets of up to ten million keys.",
    ),
    _task(
        "memory",
        "MemoryConfig",
        "Measure the peak memory of driver and workers of a real job, for lists of growing size.",
    ),
    _task(
        "train",
        "TrainBenchmarkConfig",
        "Measure training with 1, 2 and 4 workers, and our training step beside torchvision's.",
    ),
)

if __name__ == "__main__":
    dispatch(TASKS, "python jobs/benchmark.py", "Measures the project's figures.", sys.argv[1:])
