from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import CHECKOUT, first_training
from benchmarks.config import FirstTrainingConfig
from benchmarks.detector_quality import TrainedDetector, best_f1_points
from benchmarks.first_training import arguments, table, trials
from benchmarks.torchvision_training import fitting_steps
from benchmarks.trainings import train_trial
from fastrcnn.detection import Detections
from pipeline.annotations import read_labelled_images
from pipeline.draw_scenes import draw_split
from pipeline.errors import UserError


def small(tmp_path: Path, **changes: Any) -> FirstTrainingConfig:
    data = (str(tmp_path / "one"), str(tmp_path / "two"))
    given = {"data": data, "weights": "none", "iterations": 2, "output": tmp_path / "output"}
    return FirstTrainingConfig(**(given | changes))


def draw(tmp_path: Path) -> None:
    """Draw two data sets; the second has no split to validate on."""
    draw_split(tmp_path / "one", "train", range(4), seed=0, size=(90, 110))
    draw_split(tmp_path / "one", "val", range(4, 6), seed=0, size=(90, 110))
    draw_split(tmp_path / "two", "train", range(10), seed=0, size=(90, 110))
    draw_split(tmp_path / "two", "test", range(10, 12), seed=0, size=(90, 110))


def row(**changes: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(first_training.COLUMNS.values(), 0.5)
    what = {"data": "one", "setting": "defaults", "seed": 3, "measured_on": "validation"}
    return {**what, **numbers, **changes}


def test_the_defaults_get_no_flag_but_data_output_weights_length_and_seed(tmp_path: Path) -> None:
    draw(tmp_path)
    config = small(tmp_path, seeds=(3,), settings=("defaults", "hand-picked"))
    one, picked, two, _ = (arguments(config, trial) for trial in trials(config))
    model = str(tmp_path / "output" / "one" / "defaults-seed-3" / "model")
    where = ["--data", str(tmp_path / "one"), "--output", model]
    assert one == [*where, "--weights", "none", "--iterations", "2", "--seed", "3"]
    assert picked[10:12] == ["--preset", "modern"]
    assert picked[-2:] == ["--learning-rate", "0.0025"]
    assert two[6:] == ["--iterations", "2", "--val-fraction", "0.2", "--seed", "3"]


def test_a_length_in_minutes_is_passed_on(tmp_path: Path) -> None:
    draw(tmp_path)
    config = small(tmp_path, iterations=None, minutes=2.5)
    flags = arguments(config, trials(config)[0])
    assert flags[flags.index("--minutes") + 1] == "2.5"
    assert "--iterations" not in flags


@pytest.mark.parametrize("given", [{"iterations": None}, {"minutes": 1.0}])
def test_either_minutes_or_iterations_is_needed(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Give one of them"):
        small(tmp_path, **given)


def test_two_data_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two folders of one name"):
        trials(small(tmp_path, data=("a/cells", "b/cells/")))


def test_a_training_with_other_flags_is_not_continued(tmp_path: Path) -> None:
    draw(tmp_path)
    config = small(tmp_path)
    trial = trials(config)[0]
    trial.model.mkdir(parents=True)
    (trial.model / "result.json").write_text("{}")
    train_trial(arguments(config, trial), trial)  # it is finished, so nothing runs
    assert not (trial.folder / "train.log").exists()
    with pytest.raises(UserError, match="holds a training of one with other flags"):
        train_trial(arguments(replace(config, iterations=3), trial), trial)


def test_a_line_has_the_seeds_and_the_last_lines_have_the_mean_of_the_sets() -> None:
    rows = [
        row(ap50=0.5),
        row(ap50=0.7, seed=4),
        row(ap50=0.2, data="two"),
        row(ap50=0.9, data="two", precision=None, setting="hand-picked"),
        row(ap50=0.8, setting="hand-picked"),
    ]
    lines = table(rows).splitlines()
    assert lines[0] == "## validation images"
    assert [line.split(" | ")[:3] + line.split(" | ")[4:5] for line in lines[4:]] == [
        ["| one", "defaults", "3 4", "0.600 (0.500 to 0.700)"],
        ["| one", "hand-picked", "3", "0.800"],
        ["| two", "defaults", "3", "0.200"],
        ["| two", "hand-picked", "3", "0.900"],
        ["| mean of 2", "defaults", "-", "0.400"],
        ["| mean of 2", "hand-picked", "-", "0.850"],
    ]
    assert lines[7].split(" | ")[6] == "-"


def test_a_mean_waits_for_all_settings_of_a_set() -> None:
    rows = [row(), row(data="two"), row(setting="hand-picked")]
    assert "mean of" not in table(rows)
    assert table([*rows, row(measured_on="test")]).count("## ") == 2


def test_the_steps_that_fit_take_the_time_that_is_left() -> None:
    assert fitting_steps(540.0, 0.25) == 2160
    assert fitting_steps(0.2, 0.25) == 1


def test_the_scores_of_best_f1_are_those_of_the_validation_images(tmp_path: Path) -> None:
    """Each object is found with a score of .3, and again far away with .2."""
    draw(tmp_path)
    images = read_labelled_images(str(tmp_path / "one"), "val")
    queue = iter(images.images)

    def find(pixels: Any, boxes: Any) -> list[Detections]:
        image = next(queue)
        right, count = torch.from_numpy(image.gt_boxes), len(image.gt_boxes)
        scores = torch.cat([torch.full((count,), 0.3), torch.full((count,), 0.2)])
        labels = torch.from_numpy(image.gt_labels).repeat(2)
        return [Detections(torch.cat([right, right + 1000]), labels, scores)]

    detector = TrainedDetector(detect=find, classes=tuple(images.classes))
    points = best_f1_points(detector, images)
    shown = {label for image in images.images for label in image.gt_labels.tolist()}
    assert set(points) == {images.classes[label - 1] for label in shown}
    assert all(0.2 < point <= 0.3 + 1e-6 for point in points.values())


@pytest.mark.parametrize("length", [{}, {"iterations": None, "minutes": 0.02}])
def test_torchvisions_detector_is_trained_once_and_measured_on_the_same_images(
    tmp_path: Path, length: dict[str, Any]
) -> None:
    draw(tmp_path)
    changes = {"settings": ("torchvision",), "backbone": "tiny", "scale": 96, "test": True}
    config = small(tmp_path, data=(str(tmp_path / "two"),), seeds=(3,), **changes, **length)
    (trial,) = trials(config)
    rows = list(first_training.results(config, trial))
    assert [(r["measured_on"], r["images"]) for r in rows] == [("validation", 3), ("test", 2)]
    assert all(r["steps"] >= 1 and r["train_seconds"] > 0 for r in rows)
    weights = trial.folder / "torchvision.pth"
    trained = weights.stat().st_mtime_ns
    (trial.folder / "test.json").unlink()
    assert list(first_training.results(config, trial)) == rows
    assert weights.stat().st_mtime_ns == trained


@pytest.mark.long
def test_the_command_trains_measures_and_continues(tmp_path: Path) -> None:
    """It runs as a separate process, because it ends all its descendants."""
    draw(tmp_path)
    flags = ["--data", str(tmp_path / "two"), "--output", str(tmp_path / "output"), "--test"]
    flags += ["--settings", "hand-picked", "--backbone", "tiny", "--scale", "96"]
    flags += ["--weights", "none", "--iterations", "2", "--seeds", "3"]
    command = [sys.executable, "jobs/benchmark.py", "first-training", *flags]
    first = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    text = (tmp_path / "output" / "first-training.md").read_text()
    assert first.stdout.endswith(text)
    assert text.count("| two | hand-picked | 3 |") == 2
    stored = json.loads((tmp_path / "output" / "results.json").read_text())["results"]
    assert [r["measured_on"] for r in stored] == ["validation", "test"]
    assert all(r["images"] >= 1 and r["objects"] >= 1 for r in stored)
    again = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert "jobs/train.py" not in again.stdout
