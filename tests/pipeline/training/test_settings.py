"""--set: typed by the field, refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.training.settings import parse_settings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("pyramid=480,576,688", (480, 576, 688)),
        ("pyramid=[480]", (480,)),
        ("bg_iou=0,0.5", (0.0, 0.5)),
        ("class_agnostic=true", True),
        ("frozen_stages=3", 3),
        ("dropout=0", 0.0),
        ("fc6_rank=null", None),
        ("fc6_rank=32", 32),
        ("pooling=max", "max"),
        ("delta_std=0.1,0.1,0.2,0.2", (0.1, 0.1, 0.2, 0.2)),
    ],
)
def test_a_value_has_its_fields_type(setting: str, value: Any) -> None:
    model, solver = parse_settings([setting])
    assert model == {setting.partition("=")[0]: value}
    assert type(next(iter(model.values()))) is type(value)
    assert solver == {}


def test_model_and_solver_are_told_apart() -> None:
    model, solver = parse_settings(["scale=400", "momentum=0.8", "drops=0.5,0.75"])
    assert model == {"scale": 400}
    assert solver == {"momentum": 0.8, "drops": (0.5, 0.75)}


def test_an_rpns_numbers_have_its_name_before_them() -> None:
    model, solver = parse_settings(
        ["rpn_nms=0.8", "scale=400", "rpn_sides=16,32", "rpn_fg_iou=0.6"]
    )
    assert model == {"scale": 400, "rpn": {"nms": 0.8, "sides": ((16.0,), (32.0,)), "fg_iou": 0.6}}
    assert solver == {}
    with pytest.raises(UserError, match="called rpn"):
        parse_settings(["rpn=true"])


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("scale", "no NAME=VALUE"),
        ("size=4", "called size"),
        ("num_classes=4", "called num_classes"),
        ("scale=big", "a whole number"),
        ("scale=4.5", "a whole number"),
        ("class_agnostic=1", "true or false"),
        ("pooling=mean", "max or align"),
        ("bg_iou=0,0.1,0.5", "numbers with commas"),
        ("momentum=", "a number"),
    ],
)
def test_what_does_not_fit_is_refused(setting: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_settings([setting])


def test_a_name_is_set_once() -> None:
    with pytest.raises(UserError, match="twice"):
        parse_settings(["scale=4", "scale=5"])
