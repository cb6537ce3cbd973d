"""Tests of run.json: the same run by other flags, another run, and outputs of other versions."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import ablate, train
from pipeline.ablation.config import AblateConfig
from pipeline.config import TrainConfig
from pipeline.config.numbers import as_flags
from pipeline.config.overrides import ModelOverrides, SolverOverrides
from pipeline.errors import UserError
from pipeline.training import same_run
from pipeline.training.initial_weights import with_revision
from pipeline.training.plan import TrainPlan
from pipeline.training.result import TrainResult, read_result
from pipeline.training.same_run import check_same_run, claim_output, effective_flags
from pipeline.training.stored_run import StoredRun

FREE = train.FREE_FLAGS
OF_2026_11_29 = {
    "data": "data", "split": "train", "val_split": None, "classes": [], "preset": "modern",
    "backbone": "tiny", "weights": "none", "proposals": "grid", "proposal_mode": "fast",
    "max_proposals": 200, "scale": 96, "rois_per_image": 32, "fc_dim": 32,
    "set": ["images_per_pass=2"], "batch_size": 4, "iterations": 12, "epochs": None,
    "learning_rate": None, "validate_every": 2, "seed": 3, "limit": None,
}  # fmt: skip
"""run.json as commit dbe21ba wrote it for `config` below with `set=("images_per_pass=2",)`."""


def config(output: Path, **changes: Any) -> TrainConfig:
    small: dict[str, Any] = {
        "preset": "modern",
        "backbone": "tiny",
        "weights": "none",
        "proposals": "grid",
        "max_proposals": 200,
        "scale": 96,
        "fc_dim": 32,
        "rois_per_image": 32,
        "batch_size": 4,
        "iterations": 12,
        "validate_every": 2,
    }
    return TrainConfig(data="data", output=str(output), **(small | changes))


def weights_of(flags: TrainConfig) -> str:
    """Give the weights that a training with these flags starts from."""
    return StoredRun.read(flags).weights(flags.weights)


def calibrating(flags: TrainConfig) -> bool:
    return same_run.calibrates(flags, StoredRun.read(flags))


def written(output: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((output / "run.json").read_text())
    return read


def write(output: Path, flags: dict[str, Any]) -> None:
    (output / "run.json").write_text(json.dumps(flags))


def test_a_new_output_has_the_flags_of_2026_11_29_and_the_mark(tmp_path: Path) -> None:
    claim_output(config(tmp_path, set=("images_per_pass=2",)), FREE)
    marks = {
        "numbers": "one door",
        "splits": "by role",
        "labels": "checked",
        "fit": "upright",
        "recipe": "from the data",
        "imagenet": "newest",
        "calibration": "fitted",
    }
    assert written(tmp_path) == OF_2026_11_29 | marks


def test_later_flags_are_written_only_if_given(tmp_path: Path) -> None:
    claim_output(config(tmp_path, solver=SolverOverrides(momentum=0.8)), FREE)
    assert written(tmp_path)["solver"] == {"momentum": 0.8}
    assert not {"model", "rpn"} & set(written(tmp_path))


@pytest.mark.parametrize(
    "again",
    [
        {"set": ("max_grad_norm=null", "momentum=0.8")},
        {"solver": SolverOverrides(momentum=0.8, max_grad_norm="null")},
        {"solver": SolverOverrides(momentum=0.8), "set": ("max_grad_norm=null",)},
        {"set": ("momentum=0.80", "max_grad_norm=null"), "model": ModelOverrides(scale=96)},
        {
            "set": ("momentum=0.8", "max_grad_norm=null", "scale=96"),
            "scale": None,
            "num_workers": 2,
        },
    ],
)
def test_the_same_numbers_by_other_flags_are_the_same_run(
    tmp_path: Path, again: dict[str, Any]
) -> None:
    claim_output(config(tmp_path, set=("momentum=0.8", "max_grad_norm=null")), FREE)
    claim_output(config(tmp_path, **again), FREE)


@pytest.mark.parametrize(
    ("again", "line"),
    [
        ({"seed": 4, "set": ("momentum=0.8",)}, "seed was 3, is 4"),
        ({"set": ("momentum=0.7",)}, "solver.momentum was 0.8, is 0.7"),
        ({}, "solver.momentum was 0.8, is not given"),
        (
            {"set": ("momentum=0.8", "max_grad_norm=null")},
            "solver.max_grad_norm was not given, is None",
        ),
        ({"scale": 97, "set": ("momentum=0.8",)}, "model.scale was 96, is 97"),
    ],
)
def test_a_run_with_other_flags_is_refused_and_the_flags_are_named(
    tmp_path: Path, again: dict[str, Any], line: str
) -> None:
    claim_output(config(tmp_path, set=("momentum=0.8",)), FREE)
    with pytest.raises(UserError, match="holds a run with other flags") as caught:
        claim_output(config(tmp_path, **again), FREE)
    assert f"({line})" in str(caught.value)


def test_an_output_of_2026_11_29_is_resumed_by_its_command(tmp_path: Path) -> None:
    write(tmp_path, OF_2026_11_29)
    claim_output(config(tmp_path, set=("images_per_pass=2",)), FREE)
    claim_output(config(tmp_path, solver=SolverOverrides(images_per_pass=2)), FREE)
    assert written(tmp_path) == OF_2026_11_29
    with pytest.raises(UserError, match="solver.images_per_pass was 2, is not given"):
        check_same_run(config(tmp_path), FREE)


@pytest.mark.parametrize(
    "repeated",
    [
        {"set": ("momentum=0.9",)},
        {"model": ModelOverrides(max_size=160)},
        {"model": ModelOverrides(test_scales=())},
    ],
)
def test_a_number_that_is_chosen_anyway_is_the_same_run(
    tmp_path: Path, repeated: dict[str, Any]
) -> None:
    claim_output(config(tmp_path), FREE)
    claim_output(config(tmp_path, **repeated), FREE)
    with pytest.raises(UserError, match=r"\(model.max_size was not given, is 161\)"):
        check_same_run(config(tmp_path, set=("momentum=0.9", "max_size=161")), FREE)


def test_an_old_output_is_resumed_by_another_flag_with_the_same_effect(tmp_path: Path) -> None:
    write(tmp_path, OF_2026_11_29)
    again = config(tmp_path, iterations=None, set=("images_per_pass=2", "iterations=12"))
    check_same_run(again, FREE)
    other = config(tmp_path, batch_size=8, set=("images_per_pass=2",))
    with pytest.raises(UserError, match="--batch-size was 4, is 8"):
        check_same_run(other, FREE)


def test_an_unknown_flag_that_is_null_means_as_before(tmp_path: Path) -> None:
    write(tmp_path, OF_2026_11_29 | {"mosaic": None})
    check_same_run(config(tmp_path, set=("images_per_pass=2",)), FREE)


def test_an_old_output_keeps_the_imagenet_weights_that_it_began_with(tmp_path: Path) -> None:
    flags = config(tmp_path, weights="imagenet", set=("images_per_pass=2",))
    assert weights_of(flags) == "imagenet"
    write(tmp_path, OF_2026_11_29 | {"weights": "imagenet"})
    check_same_run(flags, FREE)
    assert weights_of(flags) == "imagenet_v1"
    assert weights_of(config(tmp_path, weights="none")) == "none"
    (tmp_path / "run.json").unlink()
    claim_output(flags, FREE)
    check_same_run(flags, FREE)
    assert weights_of(flags) == "imagenet"


def test_a_resumed_run_has_the_revision_that_it_began_with(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="needs the extra timm")
    flags = config(tmp_path, weights="imagenet", backbone="timm/resnet18")
    assert StoredRun.read(flags).revision is None
    write(tmp_path, as_flags(flags) | {"backbone_revision": "abc123", "numbers": "one door"})
    assert StoredRun.read(flags).revision == "abc123"
    fixed, revision = with_revision(flags, StoredRun.read(flags).revision)
    assert (fixed.backbone, revision) == ("timm/resnet18@abc123", "abc123")
    other = config(tmp_path, weights="none", backbone="timm/resnet18")
    assert with_revision(other, None) == (other, None)


def test_an_old_output_keeps_the_old_rule_and_a_new_one_uses_the_new_rule(tmp_path: Path) -> None:
    flags = config(tmp_path, scale=None, batch_size=None, set=("scale=480", "batch_size=4"))
    assert effective_flags(flags) == flags
    write(tmp_path, OF_2026_11_29 | {"scale": None, "batch_size": None, "set": list(flags.set)})
    check_same_run(flags, FREE)
    old = TrainPlan.of(effective_flags(flags), ("thing",))
    assert (old.model.max_size, old.solver.learning_rate) == (1000, 0.02)
    (tmp_path / "run.json").unlink()
    claim_output(flags, FREE)
    new = TrainPlan.of(effective_flags(flags), ("thing",))
    assert (new.model.max_size, new.solver.learning_rate) == (800, 0.005)


def test_in_an_old_output_a_short_flag_and_set_are_different_runs(tmp_path: Path) -> None:
    write(tmp_path, OF_2026_11_29)  # --scale 96: max_size became 160
    with pytest.raises(UserError, match="holds a run with other flags"):
        check_same_run(config(tmp_path, scale=None, set=("images_per_pass=2", "scale=96")), FREE)


def test_in_an_old_output_one_number_may_have_two_values(tmp_path: Path) -> None:
    flags = config(tmp_path, set=("images_per_pass=2", "scale=64"))
    with pytest.raises(UserError, match="--scale 96 --set scale=64"):
        effective_flags(flags)
    write(tmp_path, OF_2026_11_29 | {"set": list(flags.set)})
    effective_flags(flags)
    check_same_run(flags, FREE)
    assert TrainPlan.of(effective_flags(flags), ("thing",)).model.scale == 64


@pytest.mark.parametrize("mark", [{}, {"numbers": "one door"}])
def test_a_missing_flag_means_as_before(tmp_path: Path, mark: dict[str, str]) -> None:
    """The output is from a version without --proposal-mode and --limit."""
    older = {k: v for k, v in OF_2026_11_29.items() if k not in ("proposal_mode", "limit")}
    write(tmp_path, older | mark)
    check_same_run(config(tmp_path, set=("images_per_pass=2",)), FREE)
    with pytest.raises(UserError, match="limit was None, is 7"):
        check_same_run(config(tmp_path, set=("images_per_pass=2",), limit=7), FREE)


def test_a_later_version_resumes_outputs_of_this_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Later(TrainConfig):
        mosaic: int = 0
        overlap: int = 5
        """Its default has changed since: 0 means "as before"."""

    Later.__name__ = "TrainConfig"
    registered = {**same_run.LATER["TrainConfig"], "overlap": 0}
    monkeypatch.setattr(same_run, "LATER", {**same_run.LATER, "TrainConfig": registered})
    claim_output(config(tmp_path), FREE)
    same = {f.name: getattr(config(tmp_path), f.name) for f in fields(TrainConfig)}
    check_same_run(Later(**same, overlap=0), FREE)
    with pytest.raises(UserError, match="mosaic was 0, is 640"):
        check_same_run(Later(**same, overlap=0, mosaic=640), FREE)
    with pytest.raises(UserError, match="overlap was 0, is 5"):
        check_same_run(Later(**same), FREE)
    (tmp_path / "run.json").unlink()
    claim_output(Later(**same, overlap=0), FREE)
    assert not {"mosaic", "overlap"} & set(written(tmp_path))
    monkeypatch.undo()
    check_same_run(config(tmp_path), FREE)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"mosaic": 640, "numbers": "one door"}, "another version, with mosaic in its run.json"),
        ({"set": ["shear=0.5"]}, "cannot read .*there is no number called shear"),
        ({"model": [480]}, "cannot read"),
        ({"numbers": "one door", "solver": {"shear": 2}}, r"solver\.shear was 2, is not given"),
    ],
)
def test_an_unknown_run_json_is_refused_in_one_line(
    tmp_path: Path, flags: dict[str, Any], line: str
) -> None:
    write(tmp_path, OF_2026_11_29 | flags)
    with pytest.raises(UserError, match=line) as caught:
        check_same_run(config(tmp_path, set=("images_per_pass=2",)), FREE)
    assert "\n" not in str(caught.value)


def test_one_data_folder_may_be_stored_as_a_string_or_a_list(tmp_path: Path) -> None:
    write(tmp_path, OF_2026_11_29 | {"data": ["data"]})
    check_same_run(config(tmp_path, set=("images_per_pass=2",)), FREE)


@pytest.mark.parametrize(
    ("config_type", "free"), [(TrainConfig, FREE), (AblateConfig, ablate.FREE_FLAGS)]
)
def test_every_flag_is_free_or_registered(config_type: type, free: tuple[str, ...]) -> None:
    """A new flag fails here. Add it to `same_run.LATER` with the value that means "as before"."""
    first, later = same_run.FIRST[config_type.__name__], same_run.LATER[config_type.__name__]
    names = {field.name for field in fields(config_type)} - {"output", *free}
    assert names == first | set(later)
    assert not first & set(later)


def test_a_result_of_another_version_is_read(tmp_path: Path) -> None:
    claim_output(config(tmp_path), FREE)
    result = {"checkpoint": "there", "num_iterations": 12, "minutes": 7.5}
    (tmp_path / "result.json").write_text(json.dumps(result))
    expected = TrainResult(checkpoint="there", num_iterations=12, val_map=None)
    assert read_result(config(tmp_path)) == expected
    (tmp_path / "result.json").write_text('{"num_iterations": 12}')
    with pytest.raises(UserError, match="not the result of a training"):
        read_result(config(tmp_path))


def test_a_run_that_was_refused_for_a_bad_label_may_continue_with_skip(tmp_path: Path) -> None:
    claim_output(config(tmp_path), FREE)
    claim_output(config(tmp_path, on_bad_label="skip"), FREE)
    assert written(tmp_path)["on_bad_label"] == "skip"
    with pytest.raises(UserError, match="on_bad_label was 'skip', is 'clip'"):
        claim_output(config(tmp_path, on_bad_label="clip"), FREE)


def test_another_rename_is_another_run(tmp_path: Path) -> None:
    claim_output(config(tmp_path, rename=("a=b",)), FREE)
    claim_output(config(tmp_path, rename=("a=b",)), FREE)
    with pytest.raises(UserError, match="rename was"):
        claim_output(config(tmp_path), FREE)


def test_only_runs_without_the_mark_keep_the_old_rule_for_labels(tmp_path: Path) -> None:
    assert not StoredRun.read(config(tmp_path)).unchecked_labels
    write(tmp_path, OF_2026_11_29)
    assert StoredRun.read(config(tmp_path)).unchecked_labels
    claim_output(config(tmp_path / "new"), FREE)
    assert not StoredRun.read(config(tmp_path / "new")).unchecked_labels


def test_a_run_from_before_recipes_goes_on_without_a_preset(tmp_path: Path) -> None:
    write(tmp_path, OF_2026_11_29 | {"numbers": "one door", "set": []})
    check_same_run(config(tmp_path, preset=None), FREE)
    flags = config(tmp_path, preset=None, proposals=None)
    with pytest.raises(UserError, match="proposals was 'grid', is 'selective_search'"):
        check_same_run(flags, FREE)
    assert effective_flags(flags).proposals == "selective_search"
    assert effective_flags(flags).preset == "modern"


def test_without_a_preset_its_batch_does_not_limit_the_workers(tmp_path: Path) -> None:
    """The batch of the preset has 16 images, which three workers do not divide."""
    flags = config(tmp_path, preset=None, proposals=None, batch_size=None, num_workers=3)
    assert effective_flags(flags) == flags
    assert calibrating(flags)
    with pytest.raises(UserError, match="--num-workers 3: does not divide the batch of 16"):
        replace(flags, preset="modern")


def test_an_svm_holds_out_no_images_to_calibrate_on(tmp_path: Path) -> None:
    assert not calibrating(config(tmp_path, set=("classifier=svm",)))


def test_a_run_with_a_recipe_is_not_one_with_a_preset(tmp_path: Path) -> None:
    claim_output(config(tmp_path, preset=None), FREE)
    claim_output(config(tmp_path, preset=None), FREE)
    with pytest.raises(UserError, match="preset was None, is 'modern'"):
        claim_output(config(tmp_path), FREE)


def test_a_flag_that_repeats_a_choice_is_the_same_run_and_another_value_is_not(
    tmp_path: Path,
) -> None:
    claim_output(config(tmp_path, preset=None, iterations=None), FREE)
    choice = {"name": "solver.iterations", "value": 600, "reason": "", "flag": ""}
    (tmp_path / "recipe.json").write_text(json.dumps({"choices": [choice]}))
    check_same_run(config(tmp_path, preset=None, iterations=600), FREE)
    with pytest.raises(UserError, match="solver.iterations was not given, is 700"):
        check_same_run(config(tmp_path, preset=None, iterations=700), FREE)
    with pytest.raises(UserError, match=r"solver.epochs was not given, is 12.0"):
        check_same_run(config(tmp_path, preset=None, iterations=None, epochs=12.0), FREE)


def test_a_new_training_calibrates_and_one_begun_before_does_not(tmp_path: Path) -> None:
    given = config(tmp_path)
    assert calibrating(given)
    assert not calibrating(config(tmp_path, model=ModelOverrides(calibrate=False)))
    assert not calibrating(config(tmp_path, preset="paper"))
    claim_output(given, FREE)
    assert written(tmp_path)["calibration"] == "fitted"
    assert calibrating(given)
    write(tmp_path, {k: v for k, v in written(tmp_path).items() if k != "calibration"})
    check_same_run(given, FREE)
    assert not calibrating(given)
    assert not TrainPlan.of(effective_flags(given), ("cat",)).model.calibrate


def test_an_output_of_2026_11_29_stays_uncalibrated(tmp_path: Path) -> None:
    write(tmp_path, OF_2026_11_29)
    assert not calibrating(config(tmp_path, set=("images_per_pass=2",)))


def test_calibrating_a_run_that_began_before_names_the_job_that_does(tmp_path: Path) -> None:
    given = config(tmp_path, model=ModelOverrides(calibrate=True))
    claim_output(given, FREE)
    write(tmp_path, {k: v for k, v in written(tmp_path).items() if k != "calibration"})
    with pytest.raises(UserError, match=r"jobs/calibrate\.py"):
        effective_flags(given)


def test_a_resumed_run_keeps_its_choice_of_calibration(tmp_path: Path) -> None:
    claim_output(config(tmp_path), FREE)
    with pytest.raises(UserError, match="calibrate"):
        check_same_run(config(tmp_path, set=("calibrate=false",)), FREE)
    check_same_run(config(tmp_path, set=("calibrate=true",)), FREE)  # as before
    assert not StoredRun.read(config(tmp_path / "new")).unchecked_labels


def test_one_data_set_is_stored_as_text_and_several_as_a_list(tmp_path: Path) -> None:
    claim_output(config(tmp_path / "one"), FREE)
    assert json.loads((tmp_path / "one/run.json").read_text())["data"] == "data"
    several = replace(config(tmp_path / "two"), data=("a", "b"))
    claim_output(several, FREE)
    assert json.loads((tmp_path / "two/run.json").read_text())["data"] == ["a", "b"]
    check_same_run(several, FREE)
    with pytest.raises(UserError, match=r"data was \['a', 'b'\], is 'a'"):
        check_same_run(replace(several, data="a"), FREE)
