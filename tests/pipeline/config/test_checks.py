"""Tests of the limits of flags in the jobs without numbers of a model."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.ablation.config import AblateConfig
from pipeline.config import ScoreConfig, TrainConfig
from pipeline.config.checks import renames
from pipeline.config.results import CompactConfig, ExportConfig, ReportConfig
from pipeline.config.tools import DrawConfig
from pipeline.errors import UserError

HUGE = 10**20
PLACES: dict[type, dict[str, str]] = {
    AblateConfig: {"data": "d", "output": "o"},
    ScoreConfig: {"images": "i", "checkpoint": "c", "output": "o"},
    CompactConfig: {"scored": "s", "output": "o"},
    ReportConfig: {"scored": "s", "output": "o"},
    ExportConfig: {"scored": "s", "output": "o", "format": "coco"},
    DrawConfig: {"output": "o"},
}


@pytest.mark.parametrize(
    ("kind", "flag", "value"),
    [
        (AblateConfig, "seeds", (HUGE,)),
        (AblateConfig, "gpus_per_trial", float("nan")),
        (AblateConfig, "gpus_per_trial", -1),
        (AblateConfig, "cpus_per_trial", 1e308),
        (AblateConfig, "epochs", 1e308),
        (AblateConfig, "scale", HUGE),
        (ScoreConfig, "seed", HUGE),
        (ScoreConfig, "limit", HUGE),
        (ScoreConfig, "range", (5.0, 5.0)),
        (ScoreConfig, "range", (0.0, float("nan"))),
        (ScoreConfig, "bands", (0, 1, 2)),
        (ScoreConfig, "bands", (1, 2, 5000)),
        (ScoreConfig, "price_per_cpu_hour", float("inf")),
        (ScoreConfig, "price_per_gpu_hour", float("nan")),
        (CompactConfig, "memory_gib", 1e308),
        (CompactConfig, "memory_gib", 1e-9),
        (ReportConfig, "memory_gib", 1e20),
        (ReportConfig, "gallery_mib", 1e308),
        (ReportConfig, "gallery", HUGE),
        (ExportConfig, "limit", HUGE),
        (DrawConfig, "seed", -1),
    ],
)
def test_a_number_without_sense_is_refused_with_its_flag(kind: type, flag: str, value: Any) -> None:
    several = flag in ("range", "bands")
    shown = value[0] if isinstance(value, tuple) else value
    if several:
        shown = " ".join(f"{number:g}" for number in value)
    with pytest.raises(UserError) as caught:
        kind(**PLACES[kind], **{flag: value})
    assert str(caught.value).startswith(f"--{flag.replace('_', '-')} {shown}: ")
    assert "negative" not in str(caught.value)


def test_the_limits_themselves_are_accepted() -> None:
    assert ScoreConfig(**PLACES[ScoreConfig], max_bytes=10**10, seed=-1).seed == -1
    assert CompactConfig(**PLACES[CompactConfig], memory_gib=0.002).memory_gib == 0.002


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("dog",), "--rename dog: expected OLD=NEW"),
        (("dog=",), "--rename dog=: expected OLD=NEW"),
        (("=cat",), "--rename =cat: expected OLD=NEW"),
        (("dog=cat", "dog=bird"), "class 'dog' gets two new names"),
    ],
)
def test_a_rename_without_sense_is_refused(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(data="data", output="out", rename=given)


def test_names_with_spaces_are_renamed() -> None:
    assert renames(("traffic light=light", "a = b")) == {"traffic light": "light", "a": "b"}
