"""Run `jobs/benchmark.py first-training`: trainings with default flags, compared with hand-picked ones.

Each trial calls `jobs/train.py` as a person would. "defaults" gives only data, output, weights and length;
"hand-picked" gives the flags with which docs/benchmarks.md and docs/ablations.md measured. "torchvision"
trains torchvision's Faster R-CNN in this process by its recipe, with the hand-picked backbone and scale, for
the same length. Then the detector is measured on the validation images, and with --test also on the test
images. Choose between settings by the validation images, and use --test once at the end.

<output>/<data>/<setting>-seed-<n>/   command.json and a result for each measured split; model and train.log,
                                      or torchvision.pth and torchvision.json
<output>/first-training.md            the tables; results.json has one entry for each trial and split

Both are written after each trial. Run again with the same --output, it continues.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.config import FirstTrainingConfig
from benchmarks.detector_quality import measure, measure_detector
from benchmarks.results import write_results
from benchmarks.torchvision_training import train_torchvision
from benchmarks.trainings import begin, name_of, train_trial, weights_of
from demo import processes
from pipeline import storage
from pipeline.ablation.table import mean_and_range
from pipeline.annotations import read_labelled_images, splits
from pipeline.annotations.names import find_split, validation_split
from pipeline.config import TrainConfig
from pipeline.errors import UserError

DEFAULTS, HAND_PICKED, TORCHVISION = "defaults", "hand-picked", "torchvision"
VALIDATION, TEST = "validation", "test"
COLUMNS = {
    "steps": "steps",
    "AP50": "ap50",
    "COCO AP": "coco_ap",
    "precision at .5": "precision",
    "recall at .5": "recall",
    "precision at best F1": "point_precision",
    "recall at best F1": "point_recall",
    "calibration error": "calibration_error",
}
"""Heads of the table, and the names of the numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One training."""

    data: str
    setting: str
    seed: int
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def name(self) -> str:
        """The name of the data set."""
        return name_of(self.data)


def run(config: FirstTrainingConfig) -> None:
    """Train and measure each trial, and write the tables after each. At the end no process is left."""
    processes.end_on_signals()
    processes.adopt_orphans()
    rows: list[dict[str, Any]] = []
    try:
        for trial in trials(config):
            if trial.setting == TORCHVISION:
                begin(arguments(config, trial), trial.folder, f"a training of {trial.name}")
            else:
                train_trial(arguments(config, trial), trial)
            rows += list(results(config, trial))
            write_results(config, rows)
            (config.output / "first-training.md").write_text(table(rows))
    except processes.CommandError as error:
        sys.exit(f"benchmark: {error}")
    finally:
        processes.end_all(processes.descendants(os.getpid()))
    print(table(rows), end="")


def trials(config: FirstTrainingConfig) -> list[Trial]:
    """List the trainings: the settings of a seed and a data set follow each other.

    Raises:
        UserError: two data sets have one name.
    """
    names = [name_of(data) for data in config.data]
    if len(set(names)) < len(names):
        raise UserError(
            f"--data {' '.join(config.data)}",
            "holds two folders of one name, and the results are stored by name",
            "Run the command for one of them with another --output.",
        )
    return [
        Trial(
            data=data,
            setting=setting,
            seed=seed,
            folder=config.output / name_of(data) / f"{setting}-seed-{seed}",
        )
        for seed in config.seeds
        for data in config.data
        for setting in config.settings
    ]


def arguments(config: FirstTrainingConfig, trial: Trial) -> list[str]:
    """Give the flags of `jobs/train.py` for one trial."""
    flags = ["--data", storage.absolute(trial.data), "--output", str(trial.model.resolve())]
    flags += ["--weights", weights_of(config.weights)]
    if config.minutes is None:
        flags += ["--iterations", str(config.iterations)]
    else:
        flags += ["--minutes", f"{config.minutes:g}"]
    if validation_split("train", splits(trial.data)) is None:
        flags += ["--val-fraction", f"{config.val_fraction:g}"]
    flags += ["--seed", str(trial.seed)]
    return flags + (hand_picked(config) if trial.setting in (HAND_PICKED, TORCHVISION) else [])


def hand_picked(config: FirstTrainingConfig) -> list[str]:
    """Give the flags that people picked for small data sets on a CPU."""
    return [
        part
        for name, value in picked_numbers(config).items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def picked_numbers(config: FirstTrainingConfig) -> dict[str, Any]:
    """Give the hand-picked numbers by the names of their flags."""
    return {
        "preset": "modern",
        "backbone": config.backbone,
        "proposals": "rpn",
        "scale": config.scale,
        "fc_dim": 256,
        "rois_per_image": 64,
        "batch_size": 2,
        "learning_rate": 0.0025,
    }


def results(config: FirstTrainingConfig, trial: Trial) -> Iterator[dict[str, Any]]:
    """Give the numbers of a trial on each split: those of an earlier command, or measured now.

    Raises:
        UserError: --test is given, and the data set has no test split.
    """
    for measured_on in (VALIDATION, TEST) if config.test else (VALIDATION,):
        stored = trial.folder / f"{measured_on}.json"
        if not stored.exists():
            stored.parent.mkdir(parents=True, exist_ok=True)
            stored.write_text(json.dumps(_measure(config, trial, measured_on), indent=1) + "\n")
        what = {"data": trial.name, "setting": trial.setting, "seed": trial.seed}
        yield {**what, "measured_on": measured_on, **json.loads(stored.read_text())}


def _measure(config: FirstTrainingConfig, trial: Trial, measured_on: str) -> dict[str, Any]:
    """Measure a trial on a split, and say how many steps it had; torchvision's detector is trained first."""
    test = _test_split(trial.data) if measured_on == TEST else None
    if trial.setting == TORCHVISION:
        flags = _torchvision_flags(config, trial)
        detector, images, told = train_torchvision(flags, trial.folder, config.minutes)
        if test is not None:
            images = read_labelled_images(trial.data, test, classes=detector.classes)
        return measure_detector(detector, images) | told
    held_out = validation_split("train", splits(trial.data))
    listed = trial.model / "splits" / "val.txt"
    told = {"steps": json.loads((trial.model / "result.json").read_text())["num_iterations"]}
    return measure(str(trial.model), trial.data, test or held_out or str(listed)) | told


def _test_split(data: str) -> str:
    """Find the test split. Raise UserError if the data set has none."""
    known = splits(data)
    found = find_split(TEST, known)
    if found is None:
        raise UserError(
            f"--test --data {data}",
            f"has no test split, only {', '.join(known)}",
            "Leave out --test, or give other data.",
        )
    return found


def _torchvision_flags(config: FirstTrainingConfig, trial: Trial) -> TrainConfig:
    """Give the hand-picked flags, with which data, images and network are as in that setting."""
    has_validation = validation_split("train", splits(trial.data)) is not None
    return TrainConfig(
        data=(storage.absolute(trial.data),),
        output=str(trial.model.resolve()),
        weights=weights_of(config.weights),
        iterations=config.iterations,
        val_fraction=None if has_validation else config.val_fraction,
        seed=trial.seed,
        **picked_numbers(config),
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write one table for each split: a line for each data set and setting, then the mean of each setting.

    A line has mean and range over the seeds. The mean of a setting is that of the data sets' means.
    """
    sections = []
    for split in dict.fromkeys(row["measured_on"] for row in rows):
        of_split = [row for row in rows if row["measured_on"] == split]
        lines = [
            f"## {split} images",
            "",
            f"| data | setting | seeds | {' | '.join(COLUMNS)} |",
            f"| --- | --- | --- |{' ---: |' * len(COLUMNS)}",
        ]
        lines += list(_lines(of_split))
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def _lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    data_sets = list(dict.fromkeys(row["data"] for row in rows))
    groups = {
        (data, setting): [r for r in rows if (r["data"], r["setting"]) == (data, setting)]
        for data in data_sets
        for setting in settings
    }
    for (data, setting), group in groups.items():
        if group:
            seeds = " ".join(str(row["seed"]) for row in group)
            cells = [_cell(name, [row.get(name) for row in group]) for name in COLUMNS.values()]
            yield f"| {data} | {setting} | {seeds} | {' | '.join(cells)} |"
    complete = [d for d in data_sets if all(groups[d, setting] for setting in settings)]
    if len(complete) < 2:
        return
    for setting in settings:
        means = [
            [_mean([row.get(name) for row in groups[data, setting]]) for data in complete]
            for name in COLUMNS.values()
        ]
        cells = [_cell(n, [_mean(of)]) for n, of in zip(COLUMNS.values(), means, strict=True)]
        yield f"| mean of {len(complete)} | {setting} | - | {' | '.join(cells)} |"


def _mean(values: Sequence[float | None]) -> float | None:
    """Compute the mean of the numbers. None, which stands for no number, is left out."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _cell(name: str, values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return mean_and_range(numbers, 0 if name == "steps" else 3) if numbers else "-"
