"""Tests of the flags for every number: made from the configs, read by tyro."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields

import pytest
import tyro

from fastrcnn.config import FastRCNNConfig, ProposalConfig, RPNConfig, SolverConfig
from pipeline.config import TrainConfig
from pipeline.config.overrides import (
    ModelOverrides,
    RPNOverrides,
    SolverOverrides,
)
from pipeline.errors import UserError
from pipeline.runtime.flags import docstrings


def read(*flags: str) -> TrainConfig:
    options = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(TrainConfig, args=["--data", "d", "--output", "o", *flags], config=options)


@pytest.mark.parametrize("config", [FastRCNNConfig, RPNConfig, SolverConfig, ProposalConfig])
def test_every_field_has_help(config: type) -> None:
    docs = docstrings(config)
    assert [f.name for f in fields(config) if len(docs.get(f.name, "")) < 10] == []


def test_every_number_has_a_flag_except_classes_rpn_and_calibration() -> None:
    names = {f.name for f in fields(FastRCNNConfig)}
    assert {f.name for f in fields(ModelOverrides)} == names - {"num_classes", "rpn", "calibration"}
    for overrides, config in ((SolverOverrides, SolverConfig), (RPNOverrides, RPNConfig)):
        assert [f.name for f in fields(overrides)] == [f.name for f in fields(config)]


def test_flags_have_the_types_of_their_fields() -> None:
    flags = (
        "--model.test-scales 400 560 --model.class-agnostic True --model.bg-iou 0 0.5"
        " --model.pooling align --solver.momentum 0.8 --rpn.nms 0.7 --rpn.sides 16,32 64,128"
    )
    config = read(*flags.split())
    assert config.model.given() == {
        "test_scales": (400, 560),
        "class_agnostic": True,
        "bg_iou": (0.0, 0.5),
        "pooling": "align",
    }
    assert config.solver.given() == {"momentum": 0.8}
    assert config.rpn.given() == {"nms": 0.7, "sides": ((16.0, 32.0), (64.0, 128.0))}


def test_none_means_not_given_and_null_means_none() -> None:
    assert read("--model.proposal-nms", "None").model.given() == {}
    assert read("--model.proposal-nms", "null").model.given() == {"proposal_nms": None}
    assert read("--solver.drops").solver.given() == {"drops": ()}


def test_help_texts_come_from_the_configs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--model.test-scales" in shown
    for config, name in ((FastRCNNConfig, "test_scales"), (SolverConfig, "momentum")):
        assert docstrings(config)[name] in shown
    assert "--model.num-classes" not in shown


@pytest.mark.parametrize("kind", [ModelOverrides, SolverOverrides, RPNOverrides])
def test_overrides_compare_hash_and_pickle_by_value(kind: type) -> None:
    name = fields(kind)[0].name  # type: ignore[arg-type]
    given = kind(**{name: 4})
    assert pickle.loads(pickle.dumps(given)) == given
    assert hash(given) == hash(kind(**{name: 4}))
    assert given != kind()
    assert eval(repr(given), {kind.__name__: kind}) == given
    with pytest.raises(FrozenInstanceError):
        setattr(given, name, 5)


def test_sides_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"--rpn.sides 16,x: expected numbers"):
        read("--rpn.sides", "16,x")
