"""Run `jobs/benchmark.py tiles`: small objects in large images, without tiles, with tiles at test, with both.

Each data set holds large images: drawn scenes of 3000 to 6000 px with objects of 8 to 4000 px, and for each
--mosaics a data set of joined images. Two trainings of equal length belong to each data set and seed, one
without and one with --tile. The first one is measured twice, without tiles and with tiles at test only.

<output>/data/<name>/                          the images, drawn or joined once
<output>/<name>/<training>-seed-<n>/          model, train.log, command.json, a result for each measurement
<output>/tiles.md                              the table; results.json has one entry for each line and seed

Both are written after each measurement. Run again with the same --output, it continues.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.config import TilesConfig
from benchmarks.results import write_results
from benchmarks.trainings import name_of, train_trial, weights_of
from demo import processes
from fastrcnn.metrics import MOST_DETECTIONS, ImageDetections, evaluate_coco
from fastrcnn.model import with_config
from fastrcnn.tiled_detection import detect_tiled
from fastrcnn.tiles import Tiling
from pipeline import storage
from pipeline.ablation.table import mean_and_range
from pipeline.annotations import read_labelled_images, splits
from pipeline.annotations.names import validation_split
from pipeline.draw_scenes import write_split
from pipeline.drawing.large_scenes import draw_large_scene, make_mosaic
from pipeline.drawing.scenes import Scene, scene_rng
from pipeline.errors import UserError
from pipeline.images import decode
from pipeline.storage import checkpoints
from pipeline.training.examples import Example
from pipeline.training.validation import ground_truth

SCENES = "scenes"
WITHOUT, WITH = "whole images", "tiles"
"""The two trainings."""
WAYS = {
    "no tiles": (WITHOUT, False),
    "tiles at test": (WITHOUT, True),
    "tiles in both": (WITH, True),
}
"""What is measured: the training, and whether detection looks at tiles."""
COLUMNS = {
    "AP": "ap",
    "AP50": "ap50",
    "small": "ap_small",
    "medium": "ap_medium",
    "large": "ap_large",
    "s an image": "seconds",
}
"""Heads of the table, and the names of the numbers. Small is below 32^2 px, large above 96^2 (COCO)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One training."""

    name: str
    """The data set."""
    training: str
    seed: int
    output: Path

    @property
    def data(self) -> Path:
        return self.output / "data" / self.name

    @property
    def folder(self) -> Path:
        return self.output / self.name / f"{self.training.replace(' ', '-')}-seed-{self.seed}"

    @property
    def model(self) -> Path:
        return self.folder / "model"


def run(config: TilesConfig) -> None:
    """Make the data, train and measure, and write the table after each measurement."""
    processes.end_on_signals()
    processes.adopt_orphans()
    rows: list[dict[str, Any]] = []
    try:
        for name, make in data_sets(config):
            _make_once(config, name, make)
        for trial in trials(config):
            train_trial(arguments(config, trial), trial)
            for row in results(config, trial):
                rows.append(row)
                write_results(config, rows)
                (config.output / "tiles.md").write_text(table(rows))
    except processes.CommandError as error:
        sys.exit(f"benchmark: {error}")
    finally:
        processes.end_all(processes.descendants(os.getpid()))
    print(table(rows), end="")


def trials(config: TilesConfig) -> list[Trial]:
    """List the trainings; the two of a seed and a data set follow each other. Mosaics get the first seed."""
    names = [SCENES, *map(name_of, config.mosaics)]
    return [
        Trial(name=name, training=training, seed=seed, output=config.output)
        for name in names
        for seed in (config.seeds if name == SCENES else config.seeds[:1])
        for training in (WITHOUT, WITH)
    ]


# --- data -------------------------------------------------------------------------------------------------

Splits = Iterator[tuple[str, Iterator[tuple[int, Scene]]]]
"""Pairs: the name of a split, and its numbered scenes."""


def data_sets(config: TilesConfig) -> list[tuple[str, Any]]:
    """List the data sets: the name, and a function that makes its splits."""
    mosaics = [(name_of(uri), lambda uri=uri: _mosaics(config, uri)) for uri in config.mosaics]
    names = [name for name, _ in mosaics]
    if len({SCENES, *names}) <= len(names):
        raise UserError(
            f"--mosaics {' '.join(config.mosaics)}",
            f"two data sets have one name, or one is called {SCENES}",
            "Give folders of different names.",
        )
    return [(SCENES, lambda: _scenes(config)), *mosaics]


def _make_once(config: TilesConfig, name: str, make: Any) -> None:
    """Write a data set, unless an earlier command has finished it with the same flags."""
    folder = config.output / "data" / name
    wanted = {"images": [*config.images], "sides": [*config.sides], "columns": config.columns}
    done = folder / "made.json"
    if done.exists():
        if json.loads(done.read_text()) != wanted:
            raise UserError(
                f"--output {config.output}",
                f"holds images that were made with other flags ({done})",
                "Give another --output, or the flags of the earlier command.",
            )
        return
    for split, scenes in make():
        write_split(folder, split, scenes)
    done.write_text(json.dumps(wanted))


def _scenes(config: TilesConfig) -> Splits:
    first = 0
    for split, count in zip(("train", "val", "test"), config.images, strict=True):
        yield split, ((n, _scene(config, n)) for n in range(first, first + count))
        first += count


def _scene(config: TilesConfig, number: int) -> Scene:
    rng = scene_rng(0, number)
    long = int(rng.integers(config.sides[0], config.sides[1] + 1))
    return draw_large_scene(rng, (3 * long // 4, long))


def _mosaics(config: TilesConfig, uri: str) -> Splits:
    """Join the images of a data set. Without a validation split, every fifth training image is for it."""
    known = splits(uri)
    train, test = (_parts(uri, split) for split in ("train", "test"))
    if val := validation_split("train", known):
        parts = {"train": train, "val": _parts(uri, val), "test": test}
    else:
        some = [part for n, part in enumerate(train) if n % 5 == 0]
        rest = [part for n, part in enumerate(train) if n % 5]
        parts = {"train": rest, "val": some, "test": test}
    number = config.columns**2
    first = 0
    for (split, scenes), most in zip(parts.items(), config.images, strict=True):
        groups = [scenes[n : n + number] for n in range(0, len(scenes), number)][:most]
        yield split, ((first + n, make_mosaic(g, config.columns)) for n, g in enumerate(groups))
        first += len(groups)


def _parts(uri: str, split: str) -> list[Scene]:
    """Read the labelled images of a split."""
    labelled = read_labelled_images(uri, split)
    return [
        Scene(
            pixels=decode(storage.read_bytes(image.image_uri)).pixels,
            boxes=image.gt_boxes,
            labels=tuple(labelled.classes[k - 1] for k in image.gt_labels.tolist()),
            masks=np.zeros((0, 1, 1), bool),
        )
        for image in labelled.images
    ]


# --- training and measuring -------------------------------------------------------------------------------


def arguments(config: TilesConfig, trial: Trial) -> list[str]:
    """Give the flags of `jobs/train.py` for one trial."""
    flags = ["--data", str(trial.data.resolve()), "--output", str(trial.model.resolve())]
    flags += ["--weights", weights_of(config.weights)]
    flags += ["--backbone", config.backbone, "--scale", str(config.scale)]
    if config.minutes is None:
        # The images are validated on once, after the last step: in tiles that takes long.
        steps = str(config.iterations)
        flags += ["--iterations", steps, "--validate-every", steps]
    else:
        flags += ["--minutes", f"{config.minutes:g}"]
    flags += ["--seed", str(trial.seed)]
    return flags + (["--tile", str(config.tile)] if trial.training == WITH else [])


def results(config: TilesConfig, trial: Trial) -> Iterator[dict[str, Any]]:
    """Give the numbers of a training in each way that it is measured in: stored ones, or measured now."""
    for way, (training, in_tiles) in WAYS.items():
        if training != trial.training:
            continue
        stored = trial.folder / f"{way.replace(' ', '-')}.json"
        if not stored.exists():
            numbers = measure(str(trial.model), trial.data, config.tile if in_tiles else None)
            stored.write_text(json.dumps(numbers, indent=1) + "\n")
        what = {"data": trial.name, "way": way, "seed": trial.seed}
        yield {**what, **json.loads(stored.read_text())}


def measure(model: str, data: Path, tile: int | None) -> dict[str, Any]:
    """Detect on the test images in this process, and compare with the labels by COCO's measures.

    Each image may have 100 boxes of a class for each look at it, as in `jobs/evaluate.py`.
    """
    loaded = checkpoints.load(checkpoints.find_checkpoint(model))
    network = with_config(loaded.model.eval(), tile=tile)
    labelled = read_labelled_images(str(data), "test", classes=loaded.classes)
    tiling, truth, detections, looks = Tiling.of(network.config), [], [], []
    seconds = 0.0
    for image in labelled.images:
        pixels = decode(storage.read_bytes(image.image_uri)).pixels
        started = time.monotonic()
        (scored,) = detect_tiled(network, [pixels])
        seconds += time.monotonic() - started
        boxes, labels, scores = (values.numpy() for values in scored.detections)
        detections.append(ImageDetections(boxes=boxes, labels=labels, scores=scores))
        truth.append(ground_truth(Example(image, np.zeros((0, 4), np.float32))))
        looks.append(1 + (len(tiling.grid(pixels.shape[:2])) if tiling else 0))
    most = MOST_DETECTIONS * max(looks)
    coco = evaluate_coco(truth, detections, len(loaded.classes), most_detections=most)
    names = [name for name in COLUMNS.values() if name.startswith("ap")]
    numbers = {name: 100 * getattr(coco, name) for name in names}
    return {
        **{name: None if value != value else value for name, value in numbers.items()},
        "seconds": seconds / len(looks),
        "images": len(looks),
        "looks": sum(looks) / len(looks),
        "steps": loaded.config["training"].get("iteration"),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the table: a line for each data set and way, with mean and range over the seeds."""
    lines = [
        f"| data | way | seeds | {' | '.join(COLUMNS)} |",
        f"| --- | --- | --- |{' ---: |' * len(COLUMNS)}",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        for way in WAYS:
            some = [row for row in rows if (row["data"], row["way"]) == (data, way)]
            if some:
                seeds = " ".join(str(row["seed"]) for row in some)
                cells = [_cell([row[name] for row in some]) for name in COLUMNS.values()]
                lines.append(f"| {data} | {way} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return mean_and_range(numbers, 1) if numbers else "-"
