"""A config may gain fields, and old values keep their hashes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from typing import Any

import pytest

from fastrcnn.config import FastRCNNConfig, ProposalConfig, RPNConfig, SolverConfig, growth

CONFIGS = (FastRCNNConfig, RPNConfig, SolverConfig, ProposalConfig)


@dataclass(frozen=True, kw_only=True)
class LaterRPN(RPNConfig):
    tilt: float = 0.0


LaterRPN.__name__ = "RPNConfig"


@dataclass(frozen=True, kw_only=True)
class LaterModel(FastRCNNConfig):
    rpn: LaterRPN | None = None
    shear: float = 0.0
    calibrate: bool = True
    """Its default has changed since: False means "as before"."""


LaterModel.__name__ = "FastRCNNConfig"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {**growth.LATER["FastRCNNConfig"], "calibrate": False}
    monkeypatch.setattr(growth, "LATER", {**growth.LATER, "FastRCNNConfig": model})


def first_fields(config: FastRCNNConfig) -> dict[str, Any]:
    """Give the fields of 2026-11-29 of a config, and of the RPN in it."""
    values = {k: v for k, v in asdict(config).items() if k in growth.FIRST["FastRCNNConfig"]}
    if values["rpn"] is not None:
        values["rpn"] = {k: v for k, v in values["rpn"].items() if k in growth.FIRST["RPNConfig"]}
    return values


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_is_registered(config: type) -> None:
    """A new field fails here: add its value that means "as before" to `growth.LATER`."""
    first, after = growth.FIRST[config.__name__], growth.LATER[config.__name__]
    assert {field.name for field in fields(config)} == first | set(after)
    assert not first & set(after)


def test_the_first_fields_are_those_of_2026_11_29() -> None:
    counts = {name: len(first) for name, first in growth.FIRST.items()}
    expected = {"ProposalConfig": 9, "RPNConfig": 11, "FastRCNNConfig": 37, "SolverConfig": 19}
    assert counts == expected


def test_first_fields_are_hashed_whatever_their_value() -> None:
    config = FastRCNNConfig.modern(2, rpn=RPNConfig(), calibrate=False)
    model = first_fields(config)
    assert growth.values_to_hash(FastRCNNConfig, asdict(config)) == model
    assert growth.values_to_hash(FastRCNNConfig, model) == model
    stored = json.loads(json.dumps(model))
    assert growth.values_to_hash(FastRCNNConfig, stored) == stored
    del stored["quarter_turns"]  # of a version before it
    assert growth.values_to_hash(FastRCNNConfig, stored) == stored


@pytest.mark.usefixtures("later")
def test_a_later_field_is_hashed_only_if_it_is_not_as_before() -> None:
    before = first_fields(FastRCNNConfig.paper(2))
    assert (
        growth.values_to_hash(LaterModel, asdict(LaterModel(num_classes=2, calibrate=False)))
        == before
    )
    for changes in ({"shear": 0.5}, {"calibrate": True}):
        values = asdict(LaterModel(**({"num_classes": 2, "calibrate": False} | changes)))
        assert growth.values_to_hash(LaterModel, values) == before | changes


def test_a_calibration_is_hashed_and_its_absence_is_not() -> None:
    model = FastRCNNConfig.paper(2)
    assert growth.values_to_hash(FastRCNNConfig, asdict(model)) == first_fields(model)
    curves = ((2.0, -5.0), (1.0, 0.0))
    values = asdict(FastRCNNConfig.paper(2, calibration=curves))
    expected = first_fields(model) | {"calibration": curves}
    assert growth.values_to_hash(FastRCNNConfig, values) == expected


@pytest.mark.usefixtures("later")
def test_a_nested_config_may_gain_fields_too() -> None:
    before = first_fields(FastRCNNConfig.paper(2, rpn=RPNConfig(nms=0.8)))
    for tilt, extra in ((0.0, {}), (0.5, {"tilt": 0.5})):
        model = LaterModel(num_classes=2, calibrate=False, rpn=LaterRPN(nms=0.8, tilt=tilt))
        expected = before | {"rpn": before["rpn"] | extra}
        assert growth.values_to_hash(
            LaterModel, json.loads(json.dumps(asdict(model)))
        ) == json.loads(json.dumps(expected))


@pytest.mark.usefixtures("later")
def test_a_field_that_an_old_checkpoint_lacks_means_as_before() -> None:
    stored = json.loads(json.dumps(asdict(FastRCNNConfig.paper(2))))
    assert LaterModel.from_dict(stored).calibrate is False  # type: ignore[attr-defined]
    assert LaterModel(num_classes=2).calibrate is True


def test_lists_and_tuples_are_the_same_value() -> None:
    assert growth.drop_as_before({"a": [[1, 2]], "b": [3]}, (), {"a": ((1, 2),), "b": ()}) == {
        "b": [3]
    }


def test_an_unknown_name_is_kept() -> None:
    assert growth.drop_as_before({"new": 0}, (), {}) == {"new": 0}


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        (tuple, field(default_factory=tuple)),
        (dict, field(default_factory=dict)),
        (RPNConfig, field(default_factory=RPNConfig)),
        (float, math.nan),
    ],
    ids=["tuple", "dict", "config", "nan"],
)
def test_a_later_field_of_any_kind_is_not_hashed_at_its_default(kind: type, default: Any) -> None:
    later: Any = make_dataclass(
        "ProposalConfig",
        [("overlap", kind, default)],
        bases=(ProposalConfig,),
        frozen=True,
        kw_only=True,
    )
    expected = growth.values_to_hash(ProposalConfig, asdict(ProposalConfig()))
    assert growth.values_to_hash(later, asdict(later())) == expected
