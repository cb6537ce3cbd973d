"""A training ends with calibrated scores, operating points and advice; old checkpoints can be calibrated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastrcnn.checkpoint import load_checkpoint, save_checkpoint
from fastrcnn.detection import detect
from fastrcnn.model import FastRCNN, with_config
from pipeline import calibrate, train
from pipeline.config.tools import CalibrateConfig
from pipeline.detections import min_scores
from pipeline.draw_scenes import draw_split
from pipeline.errors import UserError
from pipeline.training.data import read_parts
from pipeline.training.stored_run import StoredRun
from tests.pipeline.training_runs import config

CLASSES = ("circle", "cross", "ring", "square", "triangle")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_split(folder, "train", range(20), seed=0, size=(120, 160))
    draw_split(folder, "few", range(9), seed=0, size=(120, 160))
    return folder


@pytest.fixture(scope="module")
def trained(scenes: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a short training without validation images."""
    output = tmp_path_factory.mktemp("trained")
    train.run(config(str(scenes), str(output), iterations=2, validate_every=2))
    return output


def listed(split_file: Path) -> list[str]:
    return [line for line in split_file.read_text().splitlines() if not line.startswith("#")]


def stored(output: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((output / "checkpoint" / "config.json").read_text())
    return parsed


def test_images_are_held_out_for_the_calibration(scenes: Path, trained: Path) -> None:
    held_out, trained_on = (
        listed(trained / "splits" / f"{p}.txt") for p in ("calibration", "train")
    )
    assert 1 <= len(held_out) <= 4
    assert len(held_out) + len(trained_on) == 20
    assert stored(trained)["training"]["num_images"] == len(trained_on)
    assert stored(trained)["training"]["calibration"]["images"] == len(held_out)


def test_the_checkpoint_is_calibrated_and_scores_so(trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "checkpoint")
    curves = checkpoint.model.config.calibration
    assert curves is not None
    assert len(curves) == len(checkpoint.classes)
    assert all(a > 0 for a, _ in curves)
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    proposals = np.array([[0, 0, 60, 60], [40, 30, 120, 90]], np.float32)
    raw = with_config(checkpoint.model, calibration=None)
    (with_curves,), (without,) = (detect(m, [image], [proposals]) for m in (checkpoint.model, raw))
    assert len(with_curves.scores) == len(without.scores) > 0
    assert with_curves.scores.tolist() != without.scores.tolist()


def test_the_checkpoint_carries_operating_points(trained: Path) -> None:
    points = stored(trained).get("operating_points")
    assert points is not None
    assert set(points) <= set(CLASSES)
    assert min_scores(stored(trained), CLASSES, "model").shape == (len(CLASSES),)


def test_metrics_and_advice_are_written(trained: Path) -> None:
    final = json.loads((trained / "metrics.json").read_text())["final"]
    assert final["iteration"] == 2
    assert final["measured_on"] == "images held out of the training"
    assert set(final["at_half"]) == {"precision", "recall", "calibration_error"}
    assert final["at_half_before_calibration"]["calibration_error"] is not None
    advice = (trained / "advice.md").read_text()
    assert advice.startswith("# What limits this detector")
    assert "few training images" in advice.lower()


def test_calibrate_false_trains_on_every_image(scenes: Path, tmp_path: Path) -> None:
    flags = config(str(scenes), str(tmp_path), set=("images_per_pass=2", "calibrate=false"))
    training, validation, parts = read_parts(flags, StoredRun(None))
    assert (len(training.images), validation, parts) == (20, None, None)


def test_fewer_than_ten_images_are_all_trained_on(scenes: Path, tmp_path: Path) -> None:
    training, _, parts = read_parts(
        config(str(scenes), str(tmp_path), split="few"), StoredRun(None)
    )
    assert (len(training.images), parts) == (9, None)


def test_a_validation_split_is_used_instead(scenes: Path, tmp_path: Path) -> None:
    flags = config(str(scenes), str(tmp_path), val_split="few")
    training, validation, parts = read_parts(flags, StoredRun(None))
    assert validation is not None
    assert len(validation.images) == 9
    assert (len(training.images), parts) == (20, None)


def test_the_job_makes_a_calibrated_copy(scenes: Path, trained: Path, tmp_path: Path) -> None:
    before = load_checkpoint(trained / "checkpoint")
    plain, output = tmp_path / "plain", tmp_path / "copy"
    model = with_config(before.model, calibration=None)
    save_checkpoint(
        plain, model, classes=before.classes, proposals=before.proposals, training={"seed": 3}
    )
    given = CalibrateConfig(
        checkpoint=str(plain), data=str(scenes), split="few", output=str(output), num_workers=2
    )
    assert calibrate.run(replace(given, dry_run=True)) is None
    assert not output.exists()
    result = calibrate.run(given)
    after = load_checkpoint(output)
    assert result is not None
    assert after.model.config == replace(model.config, calibration=result.curves)
    assert after.model_id == load_checkpoint(plain).model_id
    assert after.config["training"]["seed"] == 3
    assert after.config["training"]["calibration"]["split"] == "few"
    assert after.config["operating_points"] == result.operating_points
    with pytest.raises(UserError, match="already holds a checkpoint"):
        calibrate.run(given)
    for given_iou, iou in ((0.6, 0.6), (1.0, None)):
        other = tmp_path / str(given_iou)
        calibrate.run(
            replace(given, checkpoint=str(output), output=str(other), one_class_iou=given_iou)
        )
        assert load_checkpoint(other).model.config.one_class_iou == iou


def test_the_job_refuses_what_cannot_be_calibrated(
    scenes: Path, trained: Path, tmp_path: Path
) -> None:
    given = CalibrateConfig(
        checkpoint=str(trained), data=str(scenes), split="few", output=str(tmp_path / "copy")
    )
    with pytest.raises(UserError, match="no box has one of these classes"):
        calibrate.run(replace(given, rename=tuple(f"{name}=other" for name in CLASSES)))
    checkpoint = load_checkpoint(trained / "checkpoint")
    svm = replace(checkpoint.model.config, classifier="svm", calibration=None)
    margins = FastRCNN(svm)
    margins.load_state_dict(checkpoint.model.state_dict())
    save_checkpoint(
        tmp_path / "svm",
        margins,
        classes=checkpoint.classes,
        proposals=checkpoint.proposals,
        training={},
    )
    with pytest.raises(UserError, match="margins of an SVM"):
        calibrate.run(replace(given, checkpoint=str(tmp_path / "svm")))
