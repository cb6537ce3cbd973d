"""Tests of --set: values get the type of their field; errors name the setting."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.settings import as_settings, parse_settings
from pipeline.errors import UserError

VALUES = [
    ("pyramid=480,576,688", "model.pyramid", (480, 576, 688)),
    ("pyramid=[480]", "model.pyramid", (480,)),
    ("train_scales=[480, 576]", "model.train_scales", (480, 576)),
    ("bg_iou=0,0.5", "model.bg_iou", (0.0, 0.5)),
    ("class_agnostic=true", "model.class_agnostic", True),
    ("class_agnostic=False", "model.class_agnostic", False),
    ("frozen_stages=3", "model.frozen_stages", 3),
    ("dropout=0", "model.dropout", 0.0),
    ("fc6_rank=null", "model.fc6_rank", None),
    ("fc6_rank=32", "model.fc6_rank", 32),
    ("pooling=max", "model.pooling", "max"),
    ("backbone=tiny", "model.backbone", "tiny"),
    ("delta_std=0.1,0.1,0.2,0.2", "model.delta_std", (0.1, 0.1, 0.2, 0.2)),
    ("momentum=0.8", "solver.momentum", 0.8),
    ("drops=0.5,0.75", "solver.drops", (0.5, 0.75)),
    ("rpn_nms=0.8", "rpn.nms", 0.8),
    ("rpn_sides=16,32", "rpn.sides", ((16.0,), (32.0,))),
    ("rpn_sides=[[16, 32], [64, 128]]", "rpn.sides", ((16.0, 32.0), (64.0, 128.0))),
]


@pytest.mark.parametrize(("setting", "name", "value"), VALUES)
def test_a_value_has_the_type_of_its_field(setting: str, name: str, value: Any) -> None:
    assert parse_settings([setting]) == {setting: (name, value)}
    assert type(parse_settings([setting])[setting][1]) is type(value)


@pytest.mark.parametrize(("setting", "name", "value"), VALUES)
def test_as_settings_inverts_parse_settings(setting: str, name: str, value: Any) -> None:
    (text,) = as_settings({name: value})
    assert parse_settings([text]) == {text: (name, value)}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train_nms=None", None),
        ("class_agnostic=1", True),
        ("class_agnostic=FALSE", False),
        ("scale=96.0", 96),
        ("momentum=.8", 0.8),
        ("momentum = 0.8", 0.8),
    ],
)
def test_other_ways_to_write_a_value_are_accepted(setting: str, value: Any) -> None:
    ((_, read),) = parse_settings([setting]).values()
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("scale", r"has no =\. Give NAME=VALUE"),
        ("size=4", "called size"),
        ("momentun=4", r"called momentun\. Did you mean momentum"),
        ("num_classes=4", "called num_classes"),
        ("rpn=true", "called rpn"),
        ("scale=big", r"--set scale=big: expected an integer from 1 to"),
        ("scale=4.5", "an integer"),
        ("class_agnostic=2", "true or false"),
        ("=3", "has no name before ="),
        ("pooling=mean", "max or align"),
        ("bg_iou=0,0.1,0.5", r"2 values, each a number from 0 to 1"),
        ("momentum=", "a number"),
        ("fc6_rank=x", "null or an integer"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_reason(setting: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_settings([setting])


def test_a_name_may_be_given_once_only() -> None:
    with pytest.raises(UserError, match="two times"):
        parse_settings(["scale=4", "scale=5"])
