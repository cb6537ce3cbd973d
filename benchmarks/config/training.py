"""Flags of the benchmarks that train."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from benchmarks import OUTPUT
from fastrcnn.config import LEARNED
from pipeline.config import TrainConfig
from pipeline.config.checks import check_above_zero, require
from pipeline.errors import UserError
from pipeline.runtime.flags import Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyConfig:
    """Flags of `jobs/benchmark.py accuracy`. The defaults are for the data set bccd on two cores."""

    data: Path
    """Local folder of labelled images."""
    weights: str = "imagenet"
    """Initial weights, as for `jobs/train.py`."""
    output: Path = OUTPUT
    """Local folder for tables, curves, logs and trained detectors."""
    split: str = "trainval"
    """Split to train on."""
    test_split: str = "test"
    """Split to score and evaluate."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    proposals: str = "grid"
    """Proposer, as for `jobs/train.py`."""
    max_proposals: int = 4000
    """Proposals per image."""
    scale: int = 480
    """Length of the shorter image side in the model, in pixels."""
    fc_dim: int = 1024
    """Width of fc6 and fc7."""
    rois_per_image: int = 256
    """RoIs sampled per image in a step."""
    batch_size: int = 2
    """Images per step."""
    learning_rate: float = 0.01
    """Base learning rate, reached after the warm-up."""
    epochs: float = 12
    """Number of passes over the training images."""
    set: tuple[str, ...] = ()
    """Other numbers of model and solver as NAME=VALUE, as for `jobs/train.py`."""
    seeds: tuple[int, ...] = (3,)
    """Seeds for sampling, shuffling and flips. One training per seed."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Data", common=("split", "test_split")),
        Group(
            title="Training",
            common=(
                "backbone",
                "weights",
                "proposals",
                "max_proposals",
                "scale",
                "epochs",
                "seeds",
            ),
            more=("fc_dim", "rois_per_image", "batch_size", "learning_rate", "set"),
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposersConfig:
    """Flags of `jobs/benchmark.py proposers`. The defaults are for two cores."""

    data: tuple[Uri, ...]
    """Folders or URIs of labelled images. Training uses `trainval`, or `train` if there is none; tests use
    `test`."""
    weights: str = "imagenet"
    """Initial weights, as for `jobs/train.py`."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    scale: int = 240
    """Length of the shorter image side in the model, in pixels."""
    fc_dim: int = 256
    """Width of fc6 and fc7."""
    max_proposals: int = 2000
    """Proposals per image. An RPN gives at most 1000 in tests (torchvision's number)."""
    rois_per_image: int = 64
    """RoIs sampled per image in a step."""
    epochs: float = 4
    """Number of passes over the training images."""
    learning_rate: float = 0.005
    """Learning rate. torchvision's recipe has half of it, for two images per step."""
    seeds: tuple[int, ...] = (3, 4, 5)
    """Seeds. One training per seed."""
    limit: int | None = None
    """Use only the first N images of each split."""
    output: Path = OUTPUT / "proposers"
    """Local folder for trials, proposers.md and results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Data", common=("limit",)),
        Group(
            title="Training",
            common=("backbone", "weights", "scale", "max_proposals", "epochs", "seeds"),
            more=("fc_dim", "rois_per_image", "learning_rate"),
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeConfig:
    """Flags of `jobs/benchmark.py recipe`. The defaults are for two cores."""

    data: tuple[Uri, ...]
    """Folders or URIs of labelled images. Training uses `train`, and validation the split that belongs to
    it."""
    val_fraction: float = 0.2
    """Share of `train` to validate on, for data without a validation split."""
    weights: str = "imagenet"
    """Initial weights, as for `jobs/train.py`."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    scale: int = 256
    """Length of the shorter image side in the model, in pixels."""
    fc_dim: int = 256
    """Width of fc6 and fc7."""
    rois_per_image: int = 64
    """RoIs sampled per image in a step."""
    iterations: int = 250
    """Steps of each training, of two images each."""
    learning_rate: float = 0.0025
    """Learning rate of SGD. AdamW has 2e-4."""
    seeds: tuple[int, ...] = (3, 4)
    """Seeds. One training per seed."""
    limit: int | None = None
    """Use only the first N images of each split."""
    output: Path = OUTPUT / "recipe"
    """Local folder for trials, recipe.md and results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Data", common=("val_fraction", "limit")),
        Group(
            title="Training",
            common=("backbone", "weights", "scale", "iterations", "seeds"),
            more=("fc_dim", "rois_per_image", "learning_rate"),
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TilesConfig:
    """Flags of `jobs/benchmark.py tiles`. The defaults are for two cores."""

    mosaics: tuple[Uri, ...] = ()
    """Folders or URIs of labelled images with the splits `train` and `test`. The images of each are joined to
    large ones, which are a data set too."""
    weights: str = "imagenet"
    """Initial weights, as for `jobs/train.py`."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    scale: int = 480
    """Length of the shorter side of an image or tile in the model, in pixels."""
    tile: int = 640
    """Side of the tiles, in pixels."""
    minutes: float | None = None
    """Length of each training, as for `jobs/train.py`. On a machine with other work, --iterations compares
    better."""
    iterations: int | None = None
    """Steps of each training. Give either this or --minutes."""
    seeds: tuple[int, ...] = (3, 4, 5)
    """Seeds: one pair of trainings on drawn scenes for each. Mosaics get the first one."""
    images: tuple[int, int, int] = (40, 4, 12)
    """Images to train on, to validate on, and to test on."""
    sides: tuple[int, int] = (3000, 6000)
    """Range of the longer side of a drawn scene, in pixels."""
    columns: int = 6
    """Images in each row and in each column of a mosaic."""
    output: Path = OUTPUT / "tiles"
    """Local folder for images, trainings, tiles.md and results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Data", common=("mosaics", "images", "sides"), more=("columns",)),
        Group(
            title="Training",
            common=("weights", "tile", "minutes", "iterations", "seeds"),
            more=("backbone", "scale"),
        ),
    )

    def __post_init__(self) -> None:
        _check_length(self.minutes, self.iterations)
        require(
            100 <= self.sides[0] <= self.sides[1] <= 20_000,
            f"--sides {self.sides[0]} {self.sides[1]}",
            "expected two sides from 100 to 20000 pixels, the smaller one first",
            "Give other numbers.",
        )
        check_above_zero(self, "columns", "tile", "scale", most=10_000)
        require(
            min(self.images) > 0,
            f"--images {' '.join(map(str, self.images))}",
            "expected three numbers above 0",
            "Give other numbers.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstTrainingConfig:
    """Flags of `jobs/benchmark.py first-training`."""

    data: tuple[Uri, ...]
    """Folders or URIs of labelled images. Training uses `train`, and validation the split that belongs to
    it."""
    weights: str = "imagenet"
    """Initial weights, as for `jobs/train.py`."""
    minutes: float | None = None
    """Length of each training, as for `jobs/train.py`. On a machine with other work, --iterations compares
    better."""
    iterations: int | None = None
    """Steps of each training. Give either this or --minutes."""
    seeds: tuple[int, ...] = (3, 4, 5)
    """Seeds. One training per seed."""
    settings: tuple[Literal["defaults", "hand-picked", "torchvision"], ...] = (
        "defaults",
        "hand-picked",
        "torchvision",
    )
    """What to train: with default flags, with hand-picked ones, and torchvision's Faster R-CNN."""
    val_fraction: float = 0.2
    """Share of `train` to validate on, for data without a validation split."""
    test: bool = False
    """Measure on the test images too. Do this once, at the end: choices are for the validation images."""
    backbone: str = "mobilenet_v2"
    """Backbone of the settings `hand-picked` and `torchvision`. The defaults have the one of the file of
    --weights."""
    scale: int = 256
    """Scale of the settings `hand-picked` and `torchvision`: length of the shorter image side in the model,
    in pixels."""
    output: Path = OUTPUT / "first-training"
    """Local folder for trainings, first-training.md and results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Data", common=("val_fraction", "test")),
        Group(
            title="Training",
            common=("weights", "minutes", "iterations", "seeds"),
            more=("settings", "backbone", "scale"),
        ),
    )

    def __post_init__(self) -> None:
        _check_length(self.minutes, self.iterations)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBenchmarkConfig:
    """Flags of `jobs/benchmark.py train`. The defaults are for two cores."""

    data: Uri
    """Folder or URI of labelled images."""
    weights: str = "none"
    """Weights of the backbone, as for `jobs/train.py`. The time does not depend on them."""
    split: str = "train"
    """Split to train on."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    proposals: str = "grid"
    """Proposer, as for `jobs/train.py`, except rpn. Proposals are computed before the time is measured."""
    max_proposals: int = 1000
    """Proposals per image."""
    scale: int = 240
    """Length of the shorter image side in the model, in pixels."""
    fc_dim: int = 256
    """Width of fc6 and fc7."""
    rois_per_image: int = 64
    """RoIs sampled per image in a step."""
    batch_size: int = 4
    """Images per step, over all workers."""
    iterations: int = 20
    """Number of steps of each training."""
    learning_rate: float = 0.005
    """Learning rate. Only time and equal losses are measured, so it is small enough for any weights."""
    seed: int = 3
    """Seed for order, flips, samples and initialisation."""
    workers: tuple[int, ...] = (1, 2, 4)
    """Numbers of workers. The first is the base of the comparison."""
    limit: int | None = 64
    """Use only the first N images."""
    output: Path = OUTPUT / "train"
    """Local folder for results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Data", common=("split", "limit")),
        Group(
            title="Training",
            common=("workers", "batch_size", "iterations", "backbone", "weights", "scale"),
            more=(
                "proposals",
                "max_proposals",
                "fc_dim",
                "rois_per_image",
                "learning_rate",
                "seed",
            ),
        ),
    )

    def __post_init__(self) -> None:
        if self.proposals == LEARNED:
            raise UserError(
                f"--proposals {LEARNED}",
                "is not possible, because torchvision's RoIHeads needs given proposals",
                "Give another proposer, or run jobs/ablate.py --comparisons faster_rcnn.",
            )

    def training(self, output: str, num_workers: int) -> TrainConfig:
        """Give the flags of `jobs/train.py` for a training with this number of workers."""
        numbers = asdict(self)
        for name in ("workers", "output"):
            del numbers[name]
        return TrainConfig(
            **numbers,
            output=output,
            preset="modern",
            num_workers=num_workers,
            validate_every=self.iterations,
            # Otherwise norms use only the share of their worker, and each worker rounds its gradients.
            set=("frozen_norm=true", "mixed_precision=false"),
        )


def _check_length(minutes: float | None, iterations: int | None) -> None:
    require(
        (minutes is None) != (iterations is None),
        "--minutes and --iterations: " + ("none" if minutes is None else "both"),
        "one of them says how long to train",
        "Give one of them.",
    )
