"""Flags of the benchmarks of what is done with scores: finding wrong labels, calibrating on other images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks import OUTPUT
from pipeline.config.checks import check_above_zero, check_not_negative, check_seeds, require
from pipeline.runtime.flags import Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectsBenchmarkConfig:
    """Flags of `jobs/benchmark.py suspects`."""

    images: int = 1200
    """Drawn scenes whose labels get faults."""
    test: int = 300
    """Drawn scenes with true labels, to measure --retrain."""
    share: float = 0.1
    """Share of the labels that get a fault: a third each is taken away, moved, or given another class."""
    weights: str = "imagenet"
    """Initial weights, as for `jobs/train.py`."""
    iterations: int = 3000
    """Steps of each training."""
    scale: int = 160
    """Length of the shorter image side in the model, in pixels."""
    first: int = 100
    """Suspects of each kind whose precision is measured, and suspects in all that are repaired."""
    retrain: bool = False
    """Also train on the labels with faults, on the repaired and on the true ones, and measure the mAP of each
    on the test scenes."""
    seed: int = 7
    """Seed of scenes, faults and trainings."""
    output: Path = OUTPUT / "suspects"
    """Local folder for scenes, trainings, suspects and suspects.md. Run again, the command continues."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Data", common=("images", "share", "test")),
        Group(title="Training", common=("weights", "iterations", "scale", "retrain")),
        Group(title="Measurement", common=("first", "seed")),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "images", "iterations", "scale", "first", "test")
        require(
            0 < self.share < 1,
            f"--share {self.share}",
            "expected a share above 0 and below 1",
            "Give another number, such as 0.1.",
        )
        check_seeds("--seed", self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherImagesConfig:
    """Flags of `jobs/benchmark.py other-images`."""

    checkpoint: Uri
    """A calibrated detector of drawn scenes, such as demo-output/model of `make demo`."""
    images: int = 500
    """Drawn scenes of each kind."""
    sampled: int = 50
    """Draws of the sample whose images are labelled, to calibrate on."""
    blur: float = 5.0
    """Standard deviation of the blur of the other images, in pixels."""
    seed: int = 77
    """Seed of scenes and sample. The detector must not have seen these scenes: `make demo` has seed 0."""
    output: Path = OUTPUT / "other-images"
    """Local folder for scenes, scores and other-images.md. Run again, the command continues."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Images", common=("images", "sampled", "blur", "seed")),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "images", "sampled")
        check_not_negative(self, "blur", most=100)
        check_seeds("--seed", self.seed)
