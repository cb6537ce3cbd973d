from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recipe as benchmark_recipe
from benchmarks.config import RecipeConfig
from benchmarks.recipe import ablation, table
from pipeline.ablation.comparisons import rows
from pipeline.draw_scenes import draw_split
from pipeline.training.plan import TrainPlan


def small(tmp_path: Path, **changes: Any) -> RecipeConfig:
    numbers = {"weights": "none", "backbone": "tiny", "scale": 96, "fc_dim": 16, "iterations": 2}
    data = (str(tmp_path / "one"), str(tmp_path / "two"))
    more = {"data": data, "rois_per_image": 8, "output": tmp_path / "output"}
    return RecipeConfig(**(numbers | more | changes))


def draw(tmp_path: Path) -> None:
    """Draw two data sets; the second has no split to validate on."""
    draw_split(tmp_path / "one", "train", range(8), seed=0, size=(90, 110))
    draw_split(tmp_path / "one", "val", range(8, 10), seed=0, size=(90, 110))
    draw_split(tmp_path / "two", "train", range(8), seed=0, size=(90, 110))
    draw_split(tmp_path / "two", "test", range(8, 9), seed=0, size=(90, 110))


def test_test_images_are_never_used(tmp_path: Path) -> None:
    draw(tmp_path)
    config = small(tmp_path)
    one, two = (ablation(config, data, "out") for data in config.data)
    assert (one.split, one.test_split, one.val_fraction) == ("train", "val", None)
    assert (two.split, two.val_fraction) == ("train", 0.2)


def test_each_part_is_added_to_adamw_alone(tmp_path: Path) -> None:
    draw(tmp_path)
    flags = ablation(small(tmp_path, seeds=(3,)), str(tmp_path / "one"), "out")
    plans = {r.setting: TrainPlan.of(flags.training(r.training), ("a",)) for r in rows(flags)}
    sgd, adamw, average, repeats, crops = plans.values()
    assert list(plans)[:2] == ["SGD", "AdamW"]
    assert (sgd.solver.optimizer, sgd.solver.learning_rate) == ("sgd", 0.0025)
    assert {p.solver.optimizer for p in (adamw, average, repeats, crops)} == {"adamw"}
    assert adamw.solver.learning_rate == 0.0002
    assert adamw.solver.weight_decay == 0.05
    assert [p.solver.ema_decay for p in (adamw, average)] == [None, 0.999]
    assert [p.solver.repeat_threshold for p in (adamw, repeats)] == [0, 0.3]
    assert [p.model.crop_jitter for p in (adamw, crops)] == [None, (0.5, 1.5)]
    assert {p.solver.iterations for p in plans.values()} == {2}


def test_a_line_has_mean_and_range_over_seeds_and_the_shortest_step() -> None:
    one = {"setting": "SGD", "ap50": 0.5, "coco_ap": 0.25, "step_seconds": 0.2}
    lines = table({"cells": [one, {**one, "ap50": 0.7, "step_seconds": 0.1}]}).splitlines()
    assert lines[0] == "## cells"
    assert lines[-1] == "| SGD | 0.600 (0.500 to 0.700) | 0.250 (0.250 to 0.250) | 100 |"
    assert table({"cells": [{**one, "ap50": None}]}).endswith("| SGD | - | - | 200 |\n")


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_every_data_set_has_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path)
    benchmark_recipe.run(small(tmp_path, seeds=(3,)))
    text = (tmp_path / "output" / "recipe.md").read_text()
    assert text.count("| AdamW, crops |") == 2
    assert capsys.readouterr().out.endswith(text)
    results = json.loads((tmp_path / "output" / "results.json").read_text())["results"]
    assert all(row["iterations"] == 2 for rows in results.values() for row in rows)
