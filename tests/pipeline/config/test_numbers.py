"""Tests of numbers given by flags: all three ways have the same effect."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pipeline.config import TrainConfig
from pipeline.config.numbers import by_old_rule, read_numbers
from pipeline.config.overrides import ModelOverrides, RPNOverrides, SolverOverrides
from pipeline.errors import UserError
from pipeline.training.plan import TrainPlan


def flags(**changes: Any) -> TrainConfig:
    return TrainConfig(data="data", output="out", **changes)


def plan(config: TrainConfig) -> TrainPlan:
    return TrainPlan.of(config, ("thing",))


def three_ways(name: str, value: Any, part: str = "model") -> list[TrainConfig]:
    """Give a number by the short flag, by the flag of its part, and by --set."""
    kind = ModelOverrides if part == "model" else SolverOverrides
    nested = {part: kind(**{name: value})}
    return [flags(**{name: value}), flags(**nested), flags(set=(f"{name}={value}",))]


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "scale", 480),
        ("model", "backbone", "vgg_m"),
        ("model", "rois_per_image", 32),
        ("model", "fc_dim", 64),
        ("solver", "batch_size", 4),
        ("solver", "iterations", 50),
        ("solver", "epochs", 3.0),
        ("solver", "learning_rate", 0.5),
        ("solver", "patience", 3),
    ],
)
def test_three_doors_give_one_plan(part: str, name: str, value: Any) -> None:
    short, nested, setting = (plan(config) for config in three_ways(name, value, part))
    assert short == nested == setting
    assert getattr(getattr(short, part), name) == value
    assert plan(flags()) != short


def test_scale_sets_max_size_unless_it_is_given() -> None:
    for config in three_ways("scale", 480):
        assert plan(config).model.max_size == 800
    for config in (
        flags(scale=480, set=("max_size=900",)),
        flags(model=ModelOverrides(scale=480, max_size=900)),
        flags(set=("max_size=900", "scale=480")),
    ):
        assert plan(config).model.max_size == 900


def test_batch_size_scales_the_learning_rate_unless_it_is_given() -> None:
    for config in three_ways("batch_size", 4, "solver"):
        assert plan(config).solver.learning_rate == pytest.approx(0.02 * 4 / 16)
    given = flags(batch_size=4, solver=SolverOverrides(learning_rate=0.3))
    assert plan(given).solver.learning_rate == 0.3


@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_the_optimizer_decides_on_rate_and_decay_unless_they_are_given(preset: Any) -> None:
    adamw = ("optimizer=adamw", "batch_size=2")
    solver = plan(flags(preset=preset, set=adamw)).solver
    assert solver.learning_rate == pytest.approx(2e-4)
    assert (solver.weight_decay, solver.caffe_momentum) == (0.05, False)
    solver = plan(flags(preset=preset, batch_size=8, set=adamw[:1])).solver
    assert solver.learning_rate == pytest.approx(4e-4)  # the square root of four times the images
    solver = plan(flags(preset=preset, learning_rate=0.5, set=(*adamw, "weight_decay=0"))).solver
    assert (solver.learning_rate, solver.weight_decay) == (0.5, 0)


def test_iterations_and_epochs_exclude_each_other() -> None:
    assert plan(flags(set=("iterations=7",))).solver.epochs is None
    assert plan(flags(preset="paper", set=("epochs=2",))).solver.iterations is None
    assert plan(flags(set=("iterations=7", "epochs=null"))).solver.iterations == 7
    with pytest.raises(UserError, match="--iterations 7 --set epochs=2: both say how long"):
        flags(iterations=7, set=("epochs=2",))


def test_null_turns_a_number_off() -> None:
    by_flag = plan(flags(model=ModelOverrides(proposal_nms="null")))
    assert by_flag == plan(flags(set=("proposal_nms=null",)))
    assert by_flag.model.proposal_nms is None
    assert plan(flags()).model.proposal_nms == 0.8


def test_rpn_numbers_are_read_by_both_doors() -> None:
    nested = plan(
        flags(proposals="rpn", rpn=RPNOverrides(nms=0.6, sides=("16", "32", "64", "128")))
    )
    setting = plan(flags(proposals="rpn", set=("rpn_nms=0.6", "rpn_sides=16,32,64,128")))
    assert nested == setting
    assert nested.model.rpn is not None
    assert (nested.model.rpn.nms, nested.model.rpn.sides) == (
        0.6,
        ((16.0,), (32.0,), (64.0,), (128.0,)),
    )


def test_two_doors_with_one_value_are_accepted() -> None:
    both = flags(scale=480, model=ModelOverrides(scale=480), set=("scale=480",))
    assert plan(both) == plan(flags(scale=480))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"scale": 480, "set": ("scale=500",)}, "--scale 480 --set scale=500"),
        (
            {"scale": 480, "model": ModelOverrides(scale=500)},
            "--scale 480 --model.scale 500",
        ),
        (
            {"solver": SolverOverrides(momentum=0.8), "set": ("momentum=0.7",)},
            "--solver.momentum 0.8 --set momentum=0.7",
        ),
    ],
)
def test_two_doors_with_different_values_are_refused_by_name(
    changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_numbers(flags(**changes))
    assert str(caught.value).startswith(f"{line}: ")
    assert "has two values. Give only one of them." in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"set": ("batch_size=0",)}, "--set batch_size=0: expected an integer from 1 to"),
        ({"set": ("rois_per_image=-4",)}, "--set rois_per_image=-4: expected an integer from"),
        ({"set": ("dropout=2",)}, "--set dropout=2: expected a number from 0 to below 1"),
        ({"set": ("momentum=7",)}, "--set momentum=7: expected a number from 0 to below 1"),
        ({"set": ("fc_dim=0",)}, "--set fc_dim=0: expected an integer from 1 to"),
        ({"set": ("momentum=NaN",)}, "--set momentum=NaN: expected a number"),
        ({"set": ("rpn_nms=0",)}, "--set rpn_nms=0: expected a number above 0, up to 1"),
        ({"batch_size": -4}, "--batch-size -4: expected an integer from 1 to"),
        ({"model": ModelOverrides(scale=0)}, "--model.scale 0: expected an integer from 1 to"),
        ({"rpn": RPNOverrides(max_proposals_test=0)}, "--rpn.max-proposals-test 0: expected"),
        ({"backbone": "vgg17"}, "--backbone vgg17: expected one of caffenet, "),
        ({"set": ("max_size=300",)}, "--set max_size=300: scale=800, max_size=300: expected scales"),
        (
            {"model": ModelOverrides(test_scales=(400, 900), scale=500, max_size=800)},
            "--model.test-scales 400 900 --model.max-size 800: test_scales=(400, 900), max_size=800: ",
        ),
        ({"batch_size": 3, "num_workers": 2}, "--batch-size 3 --num-workers 2: every worker needs"),
        (
            {"set": ("batch_size=3",), "num_workers": 2},
            "--set batch_size=3 --num-workers 2: every worker needs the same number of images",
        ),
        (
            {"set": ("optimizer=adamw", "caffe_momentum=true")},
            "--set caffe_momentum=true --set optimizer=adamw: caffe_momentum=True, ",
        ),
        (
            {"solver": SolverOverrides(optimizer="adamw", momentum=0.5)},
            "--solver.momentum 0.5 --solver.optimizer adamw: momentum=0.5, ",
        ),
        ({"set": ("betas=0.5,0.9",)}, "--set betas=0.5,0.9: betas=(0.5, 0.9), optimizer='sgd': "),
        ({"patience": 0}, "--patience 0: expected null or an integer from 1"),
        ({"set": ("crop_jitter=1.5,0.5",)}, "--set crop_jitter=1.5,0.5: expected the smaller"),
        ({"set": ("crop_jitter=0,1",)}, "--set crop_jitter=0,1: expected null or 2 values"),
        (
            {"num_workers": 3, "preset": "modern"},
            "--num-workers 3: does not divide the batch of 16 images, which no flag gives",
        ),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused_with_its_flag(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        flags(**changes)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "model", "solver"),
    [
        # As commit dbe21ba did: --set changed its number only, and won over other flags.
        ({"set": ("scale=480",)}, {"scale": 480, "max_size": 1333}, {"learning_rate": 0.02}),
        ({"scale": 600, "set": ("scale=480",)}, {"scale": 480, "max_size": 1000}, {}),
        ({"scale": 600, "set": ("max_size=700",)}, {"scale": 600, "max_size": 700}, {}),
        ({"set": ("batch_size=4",)}, {}, {"batch_size": 4, "learning_rate": 0.02}),
        (
            {"batch_size": 8, "set": ("batch_size=4",)},
            {},
            {"batch_size": 4, "learning_rate": 0.01},
        ),
        ({"set": ("backbone=tiny", "proposal_nms=null")}, {"max_size": 1000, "scale": 600}, {}),
        (
            {"set": ("iterations=9", "epochs=null"), "learning_rate": 0.5},
            {},
            {"iterations": 9, "epochs": None, "learning_rate": 0.5},
        ),
    ],
)
def test_an_old_output_keeps_its_plan(
    changes: dict[str, Any], model: dict[str, Any], solver: dict[str, Any]
) -> None:
    made = plan(by_old_rule(flags(**changes)))
    assert {name: getattr(made.model, name) for name in model} == model
    assert {name: getattr(made.solver, name) for name in solver} == solver


def test_the_old_rule_changes_nothing_without_a_conflicting_set() -> None:
    for changes in ({}, {"scale": 480, "batch_size": 4}, {"preset": "paper", "epochs": 2.0}):
        config = flags(**changes, set=("momentum=0.8", "train_nms=0.7"))
        assert plan(by_old_rule(config)) == plan(config)


def test_flags_are_checked_without_torch() -> None:
    code = (
        "import sys; from pipeline.config import TrainConfig;"
        "TrainConfig(data='d', output='o', set=('momentum=0.8',)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"backbone": "tiny", "set": ("frozen_stages=99",)},
            "--set frozen_stages=99: expected at most 5, the number of stages of tiny.",
        ),
        ({"epochs": 1e20}, "--epochs 1e+20: expected null or a number above 0, up to 1000000."),
        ({"seed": 10**20}, f"--seed {10**20}: expected an integer from 0 to 2**63 - 1."),
        ({"fc_dim": 10**9}, f"--fc-dim {10**9}: expected an integer from 1 to 65536."),
        ({"scale": 10**6}, f"--scale {10**6}: expected an integer from 1 to 100000."),
        ({"rois_per_image": 10**20}, f"--rois-per-image {10**20}: expected an integer from 1"),
        ({"batch_size": 10**20}, f"--batch-size {10**20}: expected an integer from 1 to 65536."),
        ({"learning_rate": 1e308}, "--learning-rate 1e+308: expected a number above 0, up to 1000."),
        ({"gpus_per_worker": float("nan")}, "--gpus-per-worker nan: expected 0 or more"),
        ({"gpus_per_worker": float("inf")}, "--gpus-per-worker inf: expected 0 or more"),
        ({"model": ModelOverrides(pool_size=200)}, "--model.pool-size 200: expected"),
        (
            {"model": ModelOverrides(fc7_rank=2000)},
            "--model.fc7-rank 2000: expected at most 1024, the width of the layer.",
        ),
        ({"solver": SolverOverrides(warmup=10**20)}, f"--solver.warmup {10**20}: expected"),
        (
            {"solver": SolverOverrides(drops=(0.9, 0.5))},
            "--solver.drops 0.9 0.5: expected shares that rise.",
        ),
        ({"rpn": RPNOverrides(sides=(",",))}, "--rpn.sides ,: expected at least one side"),
        (
            {"backbone": "mobilenet_v2", "weights": "none", "scale": 3},
            "--scale 3: expected at least 32 pixels, so that batch norms can measure",
        ),
    ],
)  # fmt: skip
def test_a_number_that_no_run_can_use_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        flags(**changes)
    assert str(caught.value).startswith(line)


def test_sides_for_another_number_of_maps_are_refused_with_their_flag() -> None:
    config = flags(backbone="tiny", proposals="rpn", rpn=RPNOverrides(sides=("16", "32")))
    with pytest.raises(UserError, match="^--rpn.sides 16.0 32.0: expected one list for each"):
        plan(config)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_are_a_positive_number(minutes: float) -> None:
    with pytest.raises(UserError, match="--minutes .*: must be above 0"):
        flags(minutes=minutes)


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"epochs": 2.0}, "--epochs 2.0"),
        ({"iterations": 7}, "--iterations 7"),
        ({"set": ("iterations=7",)}, "--set iterations=7"),
        ({"solver": SolverOverrides(epochs=2.0)}, "--solver.epochs 2.0"),
    ],
)
def test_minutes_exclude_another_length(changes: dict[str, Any], given: str) -> None:
    with pytest.raises(UserError, match=f"--minutes 5 {given}: both say how long to train"):
        flags(minutes=5.0, **changes)


def test_chosen_numbers_are_used_where_no_flag_gives_one() -> None:
    numbers = read_numbers(flags(scale=480, epochs=2.0))
    chosen = {"model.scale": 256, "model.fc_dim": 64, "solver.iterations": 600}
    assert dict(numbers.over(chosen).values) == {
        "model.scale": 480,
        "solver.epochs": 2.0,
        "model.fc_dim": 64,
    }
    assert dict(read_numbers(flags()).over(chosen).values) == chosen


def test_without_preset_and_batch_any_number_of_workers_is_possible() -> None:
    assert flags(num_workers=3).preset is None
