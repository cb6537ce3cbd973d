"""`jobs/benchmark.py accuracy`: puts a labelled data set into an S3 bucket of its own on this machine, trains
on its training images, scores its test images out of the bucket, evaluates, and prints one table: mean
average precision, and the time of each step.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from jobs import demo_processes, demo_servers
from pipeline import storage
from pipeline.annotations import read_labelled_images

CHECKOUT = Path(__file__).resolve().parents[1]
BUCKET = "s3://benchmark"
DATA, MODEL, RESULTS = (f"{BUCKET}/{name}" for name in ("data", "model", "results"))


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyConfig:
    """Flags of `jobs/benchmark.py accuracy`; the defaults are for bccd on two cores."""

    data: Path
    """Local labelled data set."""
    weights: str = "imagenet"
    """As for `jobs/train.py`."""
    output: Path = CHECKOUT / "benchmark-output"
    """Local folder for the tables, curves and logs."""
    split: str = "trainval"
    """Labelled images to train on."""
    test_split: str = "test"
    """Those to score and evaluate."""
    backbone: str = "mobilenet_v2"
    """As for `jobs/train.py`, and so are all below."""
    proposals: str = "grid"
    """Where candidate boxes come from."""
    max_proposals: int = 4000
    """Candidate boxes an image."""
    scale: int = 480
    """Shorter side of the image in the model, pixels."""
    fc_dim: int = 1024
    """Width of fc6 and fc7."""
    rois_per_image: int = 256
    """Regions sampled of an image."""
    batch_size: int = 2
    """Images a step."""
    learning_rate: float = 0.01
    """Of the first steps after the warm-up."""
    epochs: float = 12
    """Times that each image is seen."""
    seed: int = 3
    """Of sampling, shuffling and flips."""


def run(config: AccuracyConfig) -> None:
    """Train, score and evaluate as processes of their own, as a person would; nothing is left running."""
    demo_processes.end_on_signals()
    demo_processes.adopt_orphans()
    demo_servers.own_environment()
    logs = config.output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        with demo_servers.s3_server(logs):
            demo_servers.create_bucket("benchmark")
            seconds = _steps(config, logs)
            _report(config, seconds)
    except demo_processes.CommandError as error:
        sys.exit(f"benchmark: {error}")
    finally:
        demo_processes.end_all(demo_processes.descendants(os.getpid()))


def _steps(config: AccuracyConfig, logs: Path) -> dict[str, float]:
    """Seconds of each step, by its name."""
    seconds: dict[str, float] = {}
    storage.upload_folder(config.data, DATA)
    test = read_labelled_images(DATA, config.test_split)
    manifest = f"{BUCKET}/test.txt"
    storage.write_bytes(manifest, "".join(f"{i.image_uri}\n" for i in test.images).encode())
    names: tuple[str, ...] = (
        "weights",
        "backbone",
        "proposals",
        "max_proposals",
        "scale",
        "fc_dim",
    )
    names += ("rois_per_image", "batch_size", "learning_rate", "epochs", "seed", "split")
    flags = [
        part
        for name in names
        for part in (f"--{name.replace('_', '-')}", str(getattr(config, name)))
    ]
    commands = {
        "train": ["--data", DATA, "--output", MODEL, *flags],
        # Average precision asks for the unsure boxes too (the reference code keeps all of them).
        "score_bucket": [
            *("--images", manifest, "--checkpoint", MODEL, "--output", RESULTS),
            *("--score-threshold", "0.01"),
        ],
        "evaluate": ["--scored", RESULTS, "--data", DATA, "--split", config.test_split],
    }
    for job, arguments in commands.items():
        started = time.monotonic()
        command = [sys.executable, f"jobs/{job}.py", *arguments]
        demo_processes.run(command, logs / f"{job}.log", cwd=CHECKOUT)
        seconds[job] = time.monotonic() - started
    return seconds


def _report(config: AccuracyConfig, seconds: dict[str, float]) -> None:
    for name in ("curves.png", "metrics.json"):
        data = storage.read_bytes(f"{MODEL}/{name}")
        (config.output / f"train_{name}").write_bytes(data)
    shutil.rmtree(config.output / "evaluation", ignore_errors=True)  # an earlier run's
    storage.download_folder(f"{RESULTS}/evaluation", config.output / "evaluation")
    (metrics,) = (config.output / "evaluation").glob("*/metrics.json")
    voc07 = json.loads(metrics.read_text())["voc07"]
    lines = [f"{'mAP (VOC07)':<24}{voc07['mean_ap']:.4f}"]
    lines += [f"{job + ', s':<24}{value:.0f}" for job, value in seconds.items()]
    print("\n".join(["", *lines, "", f"curves, tables and logs: {config.output}"]))
