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
    """Local folder for what the demo leaves: report.html, boxes.jpg, model/, inbox/, results/, logs/."""
    train: int = 400
    """Number of labelled images to train on."""
    val: int = 40
    """Number of labelled images to validate on."""
    test: int = 90
    """Number of labelled images to evaluate on."""
    score: int = 110
    """Number of files to score: the test images and others. A tenth is broken on purpose."""
    iterations: int = 2400
    """Number of training steps."""
    seed: int = 0
    """Seed for drawing the images."""
    expected_map: float = 0.8
    """The demo fails if the VOC07 mAP on the test images is below this."""
    stay: bool = False
    """At the end, keep bucket, cluster and dashboard running until Ctrl-C."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Run", common=("output", "stay", "seed")),
        Group(title="Size", common=("train", "val", "test", "score", "iterations")),
        Group(title="Check", common=("expected_map",)),
    )
