#!/usr/bin/env python3
"""python jobs/benchmark.py accuracy --data ../shared/data/bccd --weights ../shared/weights/mobilenet_v2.pth
python jobs/benchmark.py proposals --data ../shared/data/bccd ../shared/data/fruit
python jobs/benchmark.py proposers --data ../shared/data/bccd ../shared/data/fruit
python jobs/benchmark.py recipe --data ../shared/data/bccd ../shared/data/wind_turbines
python jobs/benchmark.py tiles --mosaics ../shared/data/bccd ../shared/data/fruit --minutes 5
python jobs/benchmark.py sahi --checkpoint MODEL
python jobs/benchmark.py first-training --data ../shared/data/bccd ../shared/data/fruit --iterations 400
python jobs/benchmark.py decode --data ../shared/data/bccd/JPEGImages ../shared/data/fruit
python jobs/benchmark.py detector --images ../shared/data/bccd/JPEGImages
python jobs/benchmark.py score --images ../shared/data/bccd/JPEGImages
python jobs/benchmark.py feed --images ../shared/data/bccd/JPEGImages
python jobs/benchmark.py start-up --image PHOTO --checkpoint MODEL
python jobs/benchmark.py scale
python jobs/benchmark.py labels
python jobs/benchmark.py archives --image ../shared/data/bccd/JPEGImages/BloodImage_00000.jpg
python jobs/benchmark.py memory --image ../shared/data/bccd/JPEGImages/BloodImage_00000.jpg --checkpoint MODEL
python jobs/benchmark.py head --image ../shared/data/bccd/JPEGImages/BloodImage_00000.jpg --checkpoint MODEL
python jobs/benchmark.py suspects --weights ../shared/weights/mobilenet_v2.pth
python jobs/benchmark.py other-images --checkpoint demo-output/model
python jobs/benchmark.py train --data ../shared/data/bccd --weights ../shared/weights/mobilenet_v2.pth

Measures the numbers in docs/benchmarks.md and docs/scale.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # without an installed package

from pipeline.runtime.commands import Command, dispatch


def _task(name: str, config: str, summary: str) -> Command:
    return Command(
        name=name,
        config=f"benchmarks.config:{config}",
        run=f"benchmarks.{name.replace('-', '_')}:run",
        summary=summary,
        on_ray=False,
        guarded=False,  # its servers would inherit the blocked signals, and SIGTERM could not end them
    )


TASKS = (
    _task(
        "accuracy",
        "AccuracyConfig",
        "Train, score and evaluate on a bucket; report mean average precision and the time of each job.",
    ),
    _task(
        "proposals",
        "ProposalsConfig",
        "Measure recall and time of each proposer on labelled images.",
    ),
    _task(
        "proposers",
        "ProposersConfig",
        "Train a detector with each proposer on several data sets, and compare with torchvision's Faster"
        " R-CNN.",
    ),
    _task(
        "recipe",
        "RecipeConfig",
        "Train with and without each part of a recipe (AdamW, average of the weights, crops) on several data"
        " sets.",
    ),
    _task(
        "tiles",
        "TilesConfig",
        "Train on large images with small objects, with and without tiles; compare average precision by the"
        " size of the objects.",
    ),
    _task(
        "sahi",
        "SahiConfig",
        "Measure detection in tiles of large images, compared with SAHI's sliced prediction (`make peers`).",
    ),
    _task(
        "first-training",
        "FirstTrainingConfig",
        "Train with default and with hand-picked flags on several data sets; compare average precision,"
        " precision and recall at score .5, and the calibration of the scores.",
    ),
    _task(
        "decode",
        "DecodeConfig",
        "Measure the decoding speed on valid JPEGs, compared with the other installed decoders.",
    ),
    _task(
        "detector",
        "DetectorBenchmarkConfig",
        "Measure images per second of `detect`, compared with torchvision's heads and the theoretical"
        " minimum time.",
    ),
    _task(
        "score",
        "ScoreBenchmarkConfig",
        "Measure the scoring job, compared with the detector alone and with Ray's documented example, or"
        " for growing numbers of images.",
    ),
    _task(
        "feed",
        "FeedConfig",
        "Measure images per second from a folder into an actor that only decodes, compared with bare decoding"
        " and with Ray's read_images.",
    ),
    _task(
        "start-up",
        "StartUpConfig",
        "Measure the seconds from `ray job submit` to the first row, on a cluster that runs already.",
    ),
    _task(
        "scale",
        "ScaleConfig",
        "Measure memory and time of the driver for buckets of up to ten million keys.",
    ),
    _task(
        "labels",
        "LabelsConfig",
        "Measure time and memory of reading a COCO file of a million boxes and 100,000 label files on S3.",
    ),
    _task(
        "archives",
        "ArchivesConfig",
        "Measure listing and reading of images in tars on S3, compared with loose objects.",
    ),
    _task(
        "memory",
        "MemoryConfig",
        "Measure the peak memory of driver and workers of a scoring job, for lists of growing size.",
    ),
    _task(
        "head",
        "HeadConfig",
        "Measure the memory of a head node without CPUs: GCS, dashboard, raylet, and the driver of a scoring"
        " job.",
    ),
    _task(
        "other-images",
        "OtherImagesConfig",
        "Measure the scores of a detector on images of another kind, before and after a calibration on some.",
    ),
    _task(
        "suspects",
        "SuspectsBenchmarkConfig",
        "Plant faults in the labels of drawn scenes, and measure how many of them the job suspects finds.",
    ),
    _task(
        "train",
        "TrainBenchmarkConfig",
        "Measure training with 1, 2 and 4 workers, and the training step compared with torchvision's.",
    ),
)

if __name__ == "__main__":
    dispatch(
        TASKS,
        "python jobs/benchmark.py",
        "Measure the speed and accuracy of this project.",
        sys.argv[1:],
    )
