"""Flags of `jobs/demo.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.runtime.flags import Group, Groups

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Flags of `jobs/demo.py`."""

    output: Path = CHECKOUT / "demo-output"
    """Local folder for what stays: boxes.png, results/, models/, logs/."""
    train: int = 300
    """Labelled images to train on."""
    val: int = 40
    """Labelled images to validate on."""
    test: int = 90
    """Labelled images to evaluate on."""
    score: int = 110
    """Files in the bucket to score: the test images, others, and a tenth broken on purpose."""
    iterations: int = 1500
    """SGD steps."""
    seed: int = 0
    """Seed of the scenes."""
    expected_map: float = 0.6
    """The demo fails when the VOC07 mAP on the test images is below this."""
    stay: bool = False
    """When done, keep bucket, cluster and dashboard until Ctrl-C."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Run", common=("output", "stay", "seed")),
        Group(title="Size", common=("train", "val", "test", "score", "iterations")),
        Group(title="Check", common=("expected_map",)),
    )
