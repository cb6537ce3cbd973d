"""Tests of the comparisons: the trainings they need, one trial as a plain call, and the job with Tune."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fastrcnn.checkpoint import load_checkpoint
from fastrcnn.proposals import grid
from pipeline import ablate, storage
from pipeline.ablation.comparisons import COMPARISONS, NAMED_ONLY, rows
from pipeline.ablation.config import AblateConfig, Test, Training
from pipeline.ablation.table import TABLE, as_markdown, as_parquet, as_png, results_of
from pipeline.ablation.trial import folder_of, run_trial
from pipeline.annotations import read_labelled_images
from pipeline.draw_scenes import draw_split
from pipeline.errors import UserError
from pipeline.training.examples import Example
from pipeline.training.plan import TrainPlan
from pipeline.training.same_run import claim_output


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scenes")
    draw_split(folder, "train", range(6), seed=0, size=(180, 220))
    draw_split(folder, "val", range(6, 9), seed=0, size=(180, 220))
    return str(folder)


def config(scenes: str, output: Path, **changes: Any) -> AblateConfig:
    small: dict[str, Any] = {
        "split": "train",
        "test_split": "val",
        "backbone": "tiny",
        "weights": "none",
        "proposals": "grid",
        "max_proposals": 150,
        "scale": 96,
        "fc_dim": 32,
        "rois_per_image": 8,
        "epochs": 1,
    }
    return AblateConfig(data=scenes, output=str(output), **(small | changes))


def test_equal_trainings_are_made_once_and_first_stages_are_included(
    scenes: str, tmp_path: Path
) -> None:
    wanted = rows(config(scenes, tmp_path, seeds=(3, 4)))
    assert {row.comparison for row in wanted} == set(COMPARISONS) - set(NAMED_ONLY)
    base = {row.training.name for row in wanted if row.training == Training()}
    assert len(base) == 1
    trials = ablate._trials(wanted)
    assert len(trials) == len({training.name for training in trials})
    stage_wise = [t for t in trials if t.start is not None]
    assert [t.seed for t in stage_wise] == [3, 4]
    for training in stage_wise:
        assert training.start in trials
        assert training.start is not None
        assert training.start.seed == training.seed
    assert trials[Training()] == (
        Test(),
        Test(box_regression=False),
        Test(svd=(1 / 4, 1 / 16)),
        Test(svm=True),
    )


def test_an_unknown_comparison_is_refused(scenes: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scaling: unknown comparison.*sampling, multi_task"):
        rows(config(scenes, tmp_path, comparisons=("scaling",)))


def examples(scenes: str, split: str) -> list[Example]:
    images = read_labelled_images(scenes, split).images
    return [Example(image, grid((180, 220), max_boxes=150)) for image in images]


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
@pytest.mark.parametrize("peer", [False, True])
def test_a_trial_trains_runs_all_tests_and_writes_a_checkpoint(
    scenes: str, tmp_path: Path, peer: bool
) -> None:
    flags = config(scenes, tmp_path, preset="modern")
    training = Training(torchvision_heads=peer)
    tests = (
        [Test()]
        if peer
        else [Test(), Test(svd=(1 / 4, 1 / 16)), Test(svm=True), Test(box_regression=False)]
    )
    classes = read_labelled_images(scenes, "train").classes
    result = run_trial(
        flags, training, tests, classes, examples(scenes, "train"), examples(scenes, "val")
    )
    assert result["iterations"] == 3
    assert list(result["tests"]) == [test.name for test in tests]
    for test in result["tests"].values():
        assert 0 <= test["map"] <= 1
        assert test["image_seconds"] > 0
        assert set(test["ap"]) == set(classes)
    folder = Path(folder_of(flags, training))
    assert json.loads((folder / "result.json").read_text()) == result
    kept = set() if peer else {"config.json", "model.safetensors"}
    assert {p.name for p in folder.iterdir()} == kept | {"result.json"}


def test_a_trial_with_an_rpn_measures_the_recall_of_its_proposals(
    scenes: str, tmp_path: Path
) -> None:
    flags = config(scenes, tmp_path, preset="modern", comparisons=("proposers",))
    names = [row.training.proposals for row in rows(flags)]
    assert names == ["opencv", "selective_search", "grid", "rpn"]
    classes = read_labelled_images(scenes, "train").classes
    none = [replace(e, proposals=np.zeros((0, 4), np.float32)) for e in examples(scenes, "train")]
    results = []
    for training, data in (
        (Training(proposals="rpn"), none),
        (Training(proposals="grid"), examples(scenes, "train")),
    ):
        result = run_trial(flags, training, [Test(), Test(svd=(0.5, 0.5))], classes, data, data)
        assert 0 < result["average_recall"] < result["recall"] <= 1
        results.append(result)
    assert results[0]["recall"] != results[1]["recall"]
    kept = load_checkpoint(Path(folder_of(flags, Training(proposals="rpn"))))
    assert kept.proposals.name == "rpn"
    assert kept.model.config.rpn is not None
    assert len(kept.model.config.rpn.sides[0]) == 5
    assert kept.model.config.rpn.max_proposals_test == 150


def test_faster_rcnn_of_torchvision_is_trained_by_its_recipe(scenes: str, tmp_path: Path) -> None:
    flags = config(scenes, tmp_path, preset="modern", comparisons=("faster_rcnn",))
    *ours, peer = (row.training for row in rows(flags))
    assert [one.proposals for one in ours] == ["selective_search", "grid", "rpn"]
    assert [one.torchvision_heads for one in (*ours, peer)] == [False, False, False, True]
    classes = read_labelled_images(scenes, "train").classes
    solver = TrainPlan.of(flags.training(peer), classes).solver
    assert (solver.learning_rate, solver.warmup, solver.weight_decay) == (0.0025, 1000, 0.0001)
    assert solver.batch_size == 2  # the recipe's .02 is for eight GPUs with two images each
    assert solver.max_grad_norm is None
    data = [replace(e, proposals=np.zeros((0, 4), np.float32)) for e in examples(scenes, "train")]
    result = run_trial(flags, peer, [Test()], classes, data, data)
    assert 0 < result["recall"] <= 1
    assert 0 <= result["tests"]["plain"]["map"] <= 1


@pytest.mark.parametrize(
    ("comparison", "reason"),
    [
        ("svm", "SVMs are trained on given proposals"),
        ("multi_task", "second stage"),
        ("scales", "one scale"),
        ("sampling", "RoI-centric"),
    ],
)
def test_comparisons_that_exclude_an_rpn_are_refused(
    scenes: str, tmp_path: Path, comparison: str, reason: str
) -> None:
    flags = config(scenes, tmp_path, proposals="rpn", comparisons=(comparison,), dry_run=True)
    with pytest.raises(UserError, match=reason):
        ablate.run(flags)


def test_the_other_comparisons_accept_an_rpn(scenes: str, tmp_path: Path) -> None:
    names = ("svd", "proposals", "layers", "class_agnostic", "proposers", "faster_rcnn")
    ablate.run(config(scenes, tmp_path, proposals="rpn", comparisons=names, dry_run=True))


def test_a_new_test_needs_no_new_training(scenes: str, tmp_path: Path) -> None:
    flags, classes = config(scenes, tmp_path), read_labelled_images(scenes, "train").classes
    data = examples(scenes, "train"), examples(scenes, "val")
    first = run_trial(flags, Training(), [Test()], classes, *data)
    more = run_trial(flags, Training(), [Test(), Test(svd=(1.0, 1.0))], classes, *data)
    assert more["step_seconds"] == first["step_seconds"]
    assert more["tests"]["plain"] == first["tests"]["plain"]
    assert more["tests"]["svd-1-1"]["map"] == pytest.approx(
        first["tests"]["plain"]["map"], abs=0.02
    )


def test_an_output_of_other_flags_is_refused(scenes: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"scale": 97}')
    with pytest.raises(UserError, match="holds a run with other flags"):
        ablate.run(config(scenes, tmp_path, dry_run=True))


def test_a_table_has_the_rows_whose_trials_are_finished(scenes: str, tmp_path: Path) -> None:
    flags = config(scenes, tmp_path, preset="modern", comparisons=("recipe",), epochs=1)
    first, *others = rows(flags)
    classes = read_labelled_images(scenes, "train").classes
    data = examples(scenes, "train"), examples(scenes, "val")
    trial = run_trial(flags, first.training, [first.test], classes, *data)
    found = results_of(
        [first, *others], {first.training.name: trial, **{r.training.name: None for r in others}}
    )
    assert [row["setting"] for row in found] == ["SGD"]
    assert found[0]["ap50"] == trial["tests"]["plain"]["ap50"]
    assert "| SGD |" in as_markdown(flags, found)
    assert pq.read_table(io.BytesIO(as_parquet(found))).schema.equals(TABLE)


def test_the_average_of_the_weights_is_tested(scenes: str, tmp_path: Path) -> None:
    flags = config(scenes, tmp_path, preset="modern")
    classes = read_labelled_images(scenes, "train").classes
    data = examples(scenes, "train"), examples(scenes, "val")
    weights = []
    for decay in ("null", "0.5", "0.0"):
        training = Training(settings=(f"ema_decay={decay}",))
        run_trial(flags, training, [Test()], classes, *data)
        model = load_checkpoint(Path(folder_of(flags, training))).model
        weights.append(model.state_dict()["head.fc6.weight"])
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])  # an average that forgets at once


def test_a_share_of_the_training_images_is_tested_on(scenes: str, tmp_path: Path) -> None:
    flags = config(scenes, tmp_path, comparisons=("svd",), val_fraction=0.3, dry_run=True)
    training, test = ablate.read_data(flags)
    known = {image.image_uri for image in read_labelled_images(scenes, "train").images}
    parts = [{image.image_uri for image in part.images} for part in (training, test)]
    assert parts[0] | parts[1] == known
    assert not parts[0] & parts[1]
    ablate.run(flags)


def test_patience_is_refused(scenes: str, tmp_path: Path) -> None:
    flags = config(scenes, tmp_path, set=("patience=2",), comparisons=("svd",), dry_run=True)
    with pytest.raises(UserError, match="--set patience=2: a trial is not validated"):
        ablate.run(flags)


@pytest.mark.usefixtures("ray_cluster")
def test_every_row_is_filled_and_a_second_run_trains_nothing(scenes: str, tmp_path: Path) -> None:
    flags = config(scenes, tmp_path, comparisons=("sampling", "multi_task"))
    results = ablate.run(flags)
    assert results is not None
    assert [row["setting"] for row in results] == [
        "hierarchical: 16 RoIs of 2 images",
        "RoI-centric: 16 RoIs of 16 images",
        "classification only",
        "multi-task, no boxes at test",
        "stage-wise",
        "multi-task",
    ]
    assert all(np.isfinite(row["map"]) and row["step_seconds"] > 0 for row in results)
    table = pq.read_table(io.BytesIO(storage.read_bytes(str(tmp_path / "ablations.parquet"))))
    assert table.schema.equals(TABLE)
    assert table["map"].to_pylist() == [row["map"] for row in results]
    markdown = (tmp_path / "ablations.md").read_text()
    for row in results:
        assert f"| {row['setting']} | {100 * row['map']:.1f} |" in markdown
    assert "S 57.1, M 59.2, L 66.9" in markdown
    assert (tmp_path / "ablations.png").read_bytes().startswith(b"\x89PNG")

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/*")}
    assert ablate.run(flags) == results
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/*")} == before


def test_several_seeds_are_one_line_with_mean_and_range(scenes: str, tmp_path: Path) -> None:
    one = {
        "comparison": "svd",
        "setting": "whole",
        "seed": 3,
        "map": 0.5,
        "ap": {},
        "step_seconds": 0.2,
        "image_seconds": 0.1,
        "iterations": 9,
        "paper": "",
        "training": "x",
    }
    two = [one, {**one, "seed": 4, "map": 0.7}]
    markdown = as_markdown(replace(config(scenes, tmp_path), seeds=(3, 4)), two)
    assert "| whole | 60.0 (50.0 to 70.0) | 200 | 100 | 9 |  |" in markdown
    assert as_png(two).startswith(b"\x89PNG")
    for row in two:
        row |= {"comparison": "proposers", "recall": row["map"], "average_recall": 0.25}
    markdown = as_markdown(replace(config(scenes, tmp_path), seeds=(3, 4)), two)
    recall = "0.600 (0.500 to 0.700) | 0.250 (0.250 to 0.250)"
    assert f"| whole | {recall} | 60.0 (50.0 to 70.0) |" in markdown


def test_a_flag_and_set_give_the_same_number(scenes: str, tmp_path: Path) -> None:
    by_flag = config(scenes, tmp_path, scale=128, rois_per_image=4)
    by_set = AblateConfig(
        **{f.name: getattr(by_flag, f.name) for f in fields(AblateConfig)}
        | {"scale": 600, "rois_per_image": 64, "set": ("scale=128", "rois_per_image=4")}
    ).effective_flags(by_old_rule=False)
    assert by_set == by_flag
    for row in rows(replace(by_flag, comparisons=("sampling", "scales", "multi_task"))):
        plans = [TrainPlan.of(one.training(row.training), ("thing",)) for one in (by_flag, by_set)]
        assert plans[0] == plans[1]
    assert TrainPlan.of(by_flag.training(Training()), ("thing",)).model.max_size == 213


def test_the_settings_of_a_row_win_over_flags(scenes: str, tmp_path: Path) -> None:
    flags = config(scenes, tmp_path, set=("momentum=0.8", "rois_per_image=4"))
    training = Training(settings=("rois_per_image=1", "batch_size=16", "momentum=0.5"))
    made = TrainPlan.of(flags.training(training), ("thing",))
    assert (made.model.rois_per_image, made.solver.batch_size, made.solver.momentum) == (1, 16, 0.5)
    assert (
        made.solver.learning_rate == 0.001
    )  # from --learning-rate, not scaled with the batch size


def test_iterations_replace_epochs(scenes: str, tmp_path: Path) -> None:
    flags = config(scenes, tmp_path, epochs=12, set=("iterations=7",))
    solver = TrainPlan.of(flags.training(Training()), ("thing",)).solver
    assert (solver.iterations, solver.epochs) == (7, None)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"set": ("dropout=2",)}, "--set dropout=2: expected a number from 0 to below 1"),
        ({"set": ("scale=0",), "scale": 600}, "--set scale=0: expected an integer from 1 to"),
        ({"scale": 0}, "--scale 0: expected an integer from 1 to"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_flag(
    scenes: str, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as caught:
        config(scenes, tmp_path, **changes)
    assert str(caught.value).startswith(line)


def test_two_doors_with_different_values_are_refused(scenes: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--scale 96 --set scale=64: model.scale has two values"):
        ablate.run(config(scenes, tmp_path, set=("scale=64",), dry_run=True))


def test_an_old_output_keeps_its_plan(scenes: str, tmp_path: Path) -> None:
    """In commit dbe21ba, --set scale won over --scale, and only --scale changed max_size."""
    flags = config(scenes, tmp_path, set=("scale=64",), comparisons=("svd",), dry_run=True)
    made = TrainPlan.of(
        flags.effective_flags(by_old_rule=True).training(Training()), ("thing",)
    ).model
    assert (made.scale, made.max_size) == (64, 160)
    claim_output(flags, ablate.FREE_FLAGS)
    run = json.loads((tmp_path / "run.json").read_text())
    del run["numbers"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    ablate.run(flags)


def test_trials_have_the_names_of_2026_11_29() -> None:
    assert Training().name == "f2b4bbe87bd5"
    one_each = ("rois_per_image=1", "batch_size=128", "images_per_pass=8")
    assert Training(settings=one_each).name == "c5245b258370"
    start = Training(settings=("box_weight=0",))
    assert start.name == "53d097dd9869"
    assert Training(settings=("trained=bbox_pred",), start=start).name == "396e3c911562"
