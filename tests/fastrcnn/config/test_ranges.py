"""Every number of every config refuses impossible values, in one line that names the field."""

from __future__ import annotations

import math
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from fastrcnn.config import (
    FastRCNNConfig,
    FieldError,
    ProposalConfig,
    RPNConfig,
    SolverConfig,
)
from fastrcnn.config.ranges import BelowOne, Count, Length, PositiveShare, Range

CONFIGS = (FastRCNNConfig, RPNConfig, SolverConfig, ProposalConfig)
HUGE = 10**40


def numeric_fields() -> Iterator[tuple[type, str, Any]]:
    """List (config, field, type) of each field that holds a number or a tuple of numbers."""
    for config in CONFIGS:
        for name, hint in get_type_hints(config).items():
            if number_of(hint) is not None:
                yield config, name, hint


def number_of(hint: Any) -> type | None:
    """Return the kind of number in a type; None if there is none."""
    if hint in (int, float):
        return hint  # type: ignore[no-any-return]
    if get_origin(hint) is Literal:
        return None
    return next(filter(None, map(number_of, get_args(hint))), None)


def filled_with(hint: Any, value: float) -> Any:
    """Make a value of this type whose numbers are all `value`."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is tuple:
        inner = parts[:1] if parts[-1] is ... else parts
        return tuple(filled_with(part, value) for part in inner)
    if parts:
        return filled_with(next(part for part in parts if number_of(part)), value)
    return value


def required(config: type) -> dict[str, Any]:
    """Make a value for each field without a default."""
    return {f.name: 2 for f in fields(config) if f.default is MISSING}


def test_numbers_are_found_in_every_kind_of_field() -> None:
    found = {(config.__name__, name) for config, name, _ in numeric_fields()}
    assert {
        ("FastRCNNConfig", "num_classes"),
        ("FastRCNNConfig", "bg_iou"),
        ("FastRCNNConfig", "delta_std"),
        ("RPNConfig", "sides"),
        ("SolverConfig", "epochs"),
        ("ProposalConfig", "shapes"),
    } <= found
    assert len(found) > 50
    assert filled_with(tuple[tuple[float, float], ...] | None, 7) == ((7, 7),)


@pytest.mark.parametrize(
    ("config", "name", "hint"),
    [pytest.param(*each, id=f"{each[0].__name__}.{each[1]}") for each in numeric_fields()],
)
def test_every_number_has_a_range(config: type, name: str, hint: Any) -> None:
    """A field without a range fails here: give it a type from `fastrcnn.config.ranges`."""
    for impossible in (math.nan, math.inf, -math.inf, -HUGE, -float(HUGE), True):
        changes = required(config) | {name: filled_with(hint, impossible)}
        with pytest.raises(FieldError) as caught:
            config(**changes)
        line = str(caught.value)
        assert re.match(rf"(rpn\.)?{name}=.*: expected ", line), line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("config", "changes", "line"),
    [
        (SolverConfig, {"momentum": 7}, "momentum=7: expected a number from 0 to below 1"),
        (SolverConfig, {"batch_size": 0}, "batch_size=0: expected an integer from 1 to 65536"),
        (SolverConfig, {"drops": (0.5, 2)}, "drops=(0.5, 2): expected values, each a number from 0 to 1"),
        (SolverConfig, {"schedule": "linear"}, "schedule='linear': expected step or cosine"),
        (SolverConfig, {"compile": 1}, "compile=1: expected true or false"),
        (ProposalConfig, {"max_boxes": 2.5}, "max_boxes=2.5: expected an integer from 1 to 2147483647"),
        (ProposalConfig, {"mode": "quick"}, "mode='quick': expected fast, small, exact, the modes of"
         " selective_search"),
        (RPNConfig, {"nms": 0}, "rpn.nms=0: expected a number above 0, up to 1"),
        (FastRCNNConfig, {"rois_per_image": -4}, "rois_per_image=-4: expected an integer from 1 to 1000000"),
        (FastRCNNConfig, {"dropout": 2}, "dropout=2: expected a number from 0 to below 1"),
        (FastRCNNConfig, {"fc_dim": 0}, "fc_dim=0: expected an integer from 1 to 65536"),
        (FastRCNNConfig, {"fc_dim": "64"}, "fc_dim='64': expected an integer from 1 to 65536"),
        (FastRCNNConfig, {"train_nms": 0}, "train_nms=0: expected null or a number above 0, up to 1"),
        (FastRCNNConfig, {"delta_std": (0.1, 0.1)}, "delta_std=(0.1, 0.1): expected null or 4 values, each a"
         " number above 0"),
        (FastRCNNConfig, {"score_threshold": 1.5}, "score_threshold=1.5: expected a probability, up to 1"),
    ],
)  # fmt: skip
def test_an_error_says_the_name_the_value_and_what_was_expected(
    config: type, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(FieldError) as caught:
        config(**(required(config) | changes))
    assert str(caught.value) == line


def test_values_of_old_checkpoints_are_accepted() -> None:
    FastRCNNConfig(num_classes=1, classifier="svm", score_threshold=-1.05)
    FastRCNNConfig(num_classes=1, box_weight=0, beta=0, frozen_stages=0, dropout=0)
    FastRCNNConfig(num_classes=1, nms_threshold=1.0, proposal_nms=1.0, bg_iou=(0.0, 0.5))
    FastRCNNConfig(num_classes=1, fc_dim=65_536)
    SolverConfig(weight_decay=0, bias_rate=0, warmup=0, drops=(), momentum=0)
    ProposalConfig(seed=-1, min_size=0)
    ProposalConfig(seed=2**64 - 1)


def test_a_range_knows_which_limits_are_inside() -> None:
    half_open = Range(0, 1, below=True)
    assert [x in half_open for x in (-0.1, 0, 0.99, 1, 1.1)] == [False, True, True, False, False]
    above = Range(0, 1, above=True)
    assert [x in above for x in (0, 1e-9, 1)] == [False, True, True]
    assert 10**400 in Range(1)
    texts = [str(get_args(kind)[1]) for kind in (Count, BelowOne, PositiveShare, Length)]
    assert texts == [
        "from 1 to 2147483647",
        "from 0 to below 1",
        "above 0, up to 1",
        "above 0, below 1e+06",
    ]


def test_a_field_error_survives_pickling() -> None:
    error = FieldError({"momentum": 7}, "a number from 0 to below 1")
    again = pickle.loads(pickle.dumps(error))
    assert (again.names, again.expected, str(again)) == (error.names, error.expected, str(error))


def test_the_configs_import_neither_torch_nor_numpy() -> None:
    code = "import sys, fastrcnn.config; print(*sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": ((1.0, 0.0),)}, "a pair of numbers for each of the 2 classes"),
        ({"calibration": ((0.0, 0.0), (1.0, 0.0))}, "above 0"),  # it would turn the order
        ({"calibration": ((1.0, math.inf), (1.0, 0.0))}, "calibration"),
        ({"calibration": ((1.0, 0.0),) * 2, "classifier": "svm"}, "null with an SVM"),
    ],
)
def test_a_calibration_rises_and_belongs_to_probabilities(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(FieldError, match=message):
        FastRCNNConfig(num_classes=2, **changes)
