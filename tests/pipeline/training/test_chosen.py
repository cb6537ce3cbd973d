"""Tests of recipes that are chosen once and kept in the output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline import storage, train
from pipeline.annotations import LabelledImages
from pipeline.config import TrainConfig
from pipeline.config.overrides import SolverOverrides
from pipeline.draw_scenes import draw_split
from pipeline.errors import UserError
from pipeline.training import chosen
from pipeline.training.chosen import Recipe, keep, recipe_of
from pipeline.training.data import read_data
from pipeline.training.device import find_device
from pipeline.training.same_run import claim_output
from pipeline.training.situation import Device
from pipeline.training.stated_sizes import look_at
from pipeline.training.stored_run import StoredRun


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    draw_split(folder, "train", range(9), seed=0, size=(90, 110))
    draw_split(folder, "val", range(9, 12), seed=0, size=(90, 110))
    return folder


@pytest.fixture(scope="module")
def training(scenes: Path) -> LabelledImages:
    return read_data(TrainConfig(data=str(scenes), output="unused"))[0]


def config(scenes: Path, output: Path, **changes: Any) -> TrainConfig:
    """Give the flags of a small training; what they leave open is chosen."""
    small: dict[str, Any] = {
        "backbone": "tiny",
        "weights": "none",
        "fc_dim": 16,
        "rois_per_image": 16,
        "gpus_per_worker": 0,
    }
    return TrainConfig(data=str(scenes), output=str(output / "run"), **(small | changes))


def made(flags: TrainConfig, training: LabelledImages) -> Recipe:
    """Read or choose the recipe, as a training does."""
    sizes = look_at(training.images).sizes
    return recipe_of(flags, training, sizes, StoredRun.read(flags))


@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_a_named_preset_chooses_nothing(
    scenes: Path, training: LabelledImages, tmp_path: Path, preset: str
) -> None:
    flags = config(scenes, tmp_path, preset=preset)
    recipe = made(flags, training)
    assert (recipe.numbers, recipe.stored) == ({}, None)
    assert recipe.flags == replace(flags, proposals="selective_search")
    keep(flags, recipe)
    assert not (tmp_path / "run").exists()


def test_a_given_flag_is_not_chosen(scenes: Path, training: LabelledImages, tmp_path: Path) -> None:
    given = SolverOverrides(warmup=3)
    flags = config(scenes, tmp_path, solver=given, set=("nms_threshold=0.6",), proposals="grid")
    recipe = made(flags, training)
    assert recipe.flags.proposals == "grid"
    assert not {"solver.warmup", "model.nms_threshold", "model.fc_dim"} & set(recipe.numbers)
    assert recipe.numbers["solver.batch_size"] == 2


def test_a_resumed_run_chooses_nothing_again(
    scenes: Path, training: LabelledImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = config(scenes, tmp_path)
    first = made(flags, training)
    claim_output(flags, train.FREE_FLAGS)
    keep(flags, first)
    fewer = replace(training, images=training.images[:2])
    on_gpus = replace(flags, gpus_per_worker=1.0, num_workers=2)
    again = made(on_gpus, fewer)
    assert again.choices == first.choices
    assert again.device is None
    keep(on_gpus, again)
    stored = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert {c["name"]: c["value"] for c in stored["choices"]}["solver.iterations"] == 1250
    assert all(c["reason"] and c["flag"].startswith("--") for c in stored["choices"])


def test_an_output_begun_before_recipes_keeps_the_presets_numbers(
    scenes: Path, training: LabelledImages, tmp_path: Path
) -> None:
    flags = config(scenes, tmp_path)
    claim_output(replace(flags, preset="modern", proposals="selective_search"), train.FREE_FLAGS)
    uri = storage.join(flags.output, "run.json")
    stored = json.loads(storage.read_bytes(uri))
    del stored["recipe"]
    storage.write_bytes(uri, json.dumps(stored).encode())
    claim_output(flags, train.FREE_FLAGS)
    recipe = made(flags, training)
    assert (recipe.numbers, recipe.flags.proposals) == ({}, "selective_search")


def test_two_commands_that_choose_differently_do_not_share_an_output(
    scenes: Path, training: LabelledImages, tmp_path: Path
) -> None:
    flags = config(scenes, tmp_path)
    first = made(flags, training)
    other = made(replace(flags, num_workers=3), training)
    keep(flags, first)
    keep(flags, first)
    with pytest.raises(UserError, match="was begun by another command"):
        keep(flags, other)


@pytest.mark.parametrize("text", ["{}", '{"choices": [1]}', '{"choices": [{"name": "x"}]}', "[]"])
def test_a_damaged_recipe_is_refused(
    scenes: Path, training: LabelledImages, tmp_path: Path, text: str
) -> None:
    flags = config(scenes, tmp_path)
    storage.write_bytes(storage.join(flags.output, "recipe.json"), text.encode())
    with pytest.raises(UserError, match="recipe.json"):
        made(flags, training)


def test_files_are_read_for_their_size_if_no_label_states_one(
    scenes: Path, training: LabelledImages, tmp_path: Path
) -> None:
    unsized = replace(training, images=tuple(replace(i, size=None) for i in training.images))
    recipe = made(config(scenes, tmp_path), unsized)
    assert recipe.numbers == made(config(scenes, tmp_path), training).numbers
    assert {i.size for i in recipe.images_to_fit(unsized, look_at(unsized.images).sizes)} == {
        i.size for i in training.images
    }


@pytest.mark.parametrize(("gpus", "kind"), [(0, "cpu"), (0.5, "gpu"), (2, "gpu")])
def test_a_given_number_of_gpus_decides_on_the_device(gpus: float, kind: str) -> None:
    device = find_device(TrainConfig(data="d", output="o", gpus_per_worker=gpus))
    assert (device.kind, device.where) == (kind, f"--gpus-per-worker {gpus:g}")


def test_a_dry_run_off_the_cluster_says_that_it_uses_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    device = find_device(TrainConfig(data="d", output="o", dry_run=True))
    assert "this machine" in device.where


def test_a_dry_run_prints_the_whole_plan(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert train.run(config(scenes, tmp_path, dry_run=True)) is None
    lines = [record.getMessage().strip() for record in caplog.records]
    for begin in (
        "--proposals rpn: ",
        "--scale ",
        "--batch-size 2: ",
        "--iterations 1250: ",
        "--learning-rate 0.0002: ",
        "the anchors, from which the learned proposer starts, cover ",
        "one training step needs at least ",
        "time: about ",
    ):
        assert any(line.startswith(begin) for line in lines), begin
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("proposals", ["grid", "selective_search"])
def test_a_dry_run_measures_the_coverage_of_given_proposals(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, proposals: str
) -> None:
    caplog.set_level("INFO")
    train.run(config(scenes, tmp_path, proposals=proposals, dry_run=True, minutes=2.0))
    assert "the proposals cover " in caplog.text
    assert "time: --minutes 2, about " in caplog.text


@pytest.mark.usefixtures("ray_cluster")
def test_a_training_stores_its_recipe_and_its_measured_length(scenes: Path, tmp_path: Path) -> None:
    flags = config(scenes, tmp_path, minutes=0.05, validate_every=100)
    result = train.run(flags)
    assert result is not None
    length = json.loads(storage.read_bytes(storage.join(flags.output, "length.json")))
    assert result.num_iterations == length["num_iterations"] >= 10
    recipe = json.loads(storage.read_bytes(storage.join(flags.output, "recipe.json")))
    uri = storage.join(result.checkpoint, "config.json")
    stored = json.loads(storage.read_bytes(uri))["training"]
    assert stored["recipe"] == recipe
    assert stored["length"] == length
    assert stored["solver"]["iterations"] == result.num_iterations
    assert train.run(flags) == result


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_measured_steps_are_those_of_a_training_of_that_length(
    scenes: Path, tmp_path: Path
) -> None:
    timed = config(scenes, tmp_path, minutes=0.05)
    result = train.run(timed)
    assert result is not None
    plain = config(scenes, tmp_path / "again", iterations=result.num_iterations)
    plain = replace(plain, solver=SolverOverrides(warmup=500))  # as --minutes has it
    train.run(plain)
    curves = [
        json.loads(storage.read_bytes(storage.join(flags.output, "metrics.json")))["steps"]
        for flags in (timed, plain)
    ]
    losses = [[row["loss"] for row in rows] for rows in curves]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("gigabytes", "per_pass"), [(80, None), (12, 4), (0.1, 1)])
def test_a_small_gpu_gets_fewer_images_at_once(
    scenes: Path,
    training: LabelledImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gigabytes: float,
    per_pass: int | None,
) -> None:
    device = Device(kind="gpu", where="a test", memory=gigabytes * 1e9)
    monkeypatch.setattr(chosen, "find_device", lambda config: device)
    flags = TrainConfig(
        data=str(scenes), output=str(tmp_path / "run"), batch_size=16, scale=800, weights="none"
    )
    assert made(flags, training).numbers.get("solver.images_per_pass") == per_pass
