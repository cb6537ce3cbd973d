"""Run `jobs/benchmark.py accuracy`: train, score and evaluate with each seed on an S3 server of this machine.

Prints one table: average precision, and the time of each job.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import CHECKOUT
from benchmarks.config import AccuracyConfig
from demo import processes, servers
from pipeline import storage
from pipeline.annotations import read_labelled_images

BUCKET = "s3://benchmark"
DATA, TEST_LIST = f"{BUCKET}/data", f"{BUCKET}/test.txt"
TRAINING = (
    "weights",
    "backbone",
    "proposals",
    "max_proposals",
    "scale",
    "fc_dim",
    "rois_per_image",
    "batch_size",
    "learning_rate",
    "epochs",
    "split",
)
"""Flags that are passed to `jobs/train.py` unchanged."""


def run(config: AccuracyConfig) -> None:
    """Run the jobs as processes, as a person would, and print the table. At the end no process is left."""
    processes.end_on_signals()
    processes.adopt_orphans()
    servers.use_demo_environment()
    logs = config.output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        with servers.s3_server(logs):
            servers.create_bucket("benchmark")
            storage.upload_folder(config.data, DATA)
            test = read_labelled_images(DATA, config.test_split)
            storage.write_bytes(
                TEST_LIST, "".join(f"{i.image_uri}\n" for i in test.images).encode()
            )
            rows = [_measure(config, seed) for seed in config.seeds]
    except processes.CommandError as error:
        sys.exit(f"benchmark: {error}")
    finally:
        processes.end_all(processes.descendants(os.getpid()))
    print("\n".join(["", *table(rows), "", f"curves, tables and logs: {config.output}"]))


def _measure(config: AccuracyConfig, seed: int) -> dict[str, float]:
    """Train, score and evaluate with one seed; give the row of the table.

    The files of the jobs are copied to the output, because the bucket is gone when this process ends. The
    detector is copied right after the training, which takes hours.
    """
    folder = config.output / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # from an earlier benchmark
    folder.mkdir()
    model, results = f"{BUCKET}/model-{seed}", f"{BUCKET}/results-{seed}"
    flags = [
        part
        for name in TRAINING
        for part in (f"--{name.replace('_', '-')}", str(getattr(config, name)))
    ]
    if config.set:
        flags += ["--set", *config.set]
    commands = {
        "train": ["--data", DATA, "--output", model, *flags, "--seed", str(seed)],
        # Average precision needs all boxes, also those with low scores (fast-rcnn's test.py: thresh=0.). With
        # .01 instead of 0, one of 69 platelets was missed, and recall 1 is an eleventh of VOC07
        # (docs/lab-notes.md).
        "score_bucket": [
            "--images",
            TEST_LIST,
            "--checkpoint",
            model,
            "--output",
            results,
            "--score-threshold",
            "0",
        ],
        "evaluate": ["--scored", results, "--data", DATA, "--split", config.test_split],
    }
    row: dict[str, float] = {"seed": seed}
    for job, arguments in commands.items():
        started = time.monotonic()
        command = [sys.executable, f"jobs/{job}.py", *arguments]
        log = config.output / "logs" / f"{job}-{seed}.log"
        processes.run(command, log, cwd=CHECKOUT)
        row[f"{job}, s"] = time.monotonic() - started
        if job == "train":
            _copy_training(folder, model)
    return row | _average_precision(folder, results)


def _copy_training(folder: Path, model: str) -> None:
    for name in ("curves.png", "metrics.json"):
        (folder / f"train_{name}").write_bytes(storage.read_bytes(f"{model}/{name}"))
    storage.download_folder(f"{model}/checkpoint", folder / "checkpoint")


def _average_precision(folder: Path, results: str) -> dict[str, float]:
    storage.download_folder(f"{results}/evaluation", folder / "evaluation")
    (metrics,) = (folder / "evaluation").glob("*/metrics.json")
    values = json.loads(metrics.read_text())
    return {"mAP": values["voc07"]["mean_ap"], **values["voc07"]["ap"]} | {
        "COCO AP": values["coco"]["ap"]
    }


def table(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Write one line per number: one column per seed, and the mean."""
    heads = [*(f"seed {row['seed']:.0f}" for row in rows), "mean"]
    lines = [" " * 24 + "".join(f"{head:>10}" for head in heads)]
    for name in [name for name in rows[0] if name != "seed"]:
        values = [row[name] for row in rows]
        digits = 0 if name.endswith(", s") else 4
        cells = "".join(f"{value:>10.{digits}f}" for value in [*values, statistics.mean(values)])
        lines.append(f"{name:<24}{cells}")
    return lines
