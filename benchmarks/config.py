"""Flags of the benchmarks, one class each. This module imports nothing heavy, so that --help is fast."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from fastrcnn.config import LEARNED
from pipeline.config import TrainConfig, check_above_zero
from pipeline.errors import UserError
from pipeline.runtime.flags import Group, Groups, Uri

CHECKOUT = Path(__file__).resolve().parents[1]
OUTPUT = CHECKOUT / "benchmark-output"


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
class ProposalsConfig:
    """Flags of `jobs/benchmark.py proposals`."""

    data: tuple[Uri, ...]
    """Folders or URIs of labelled images."""
    proposers: tuple[str, ...] = (
        "selective_search",
        "selective_search,max_side=256",
        "selective_search,max_side=400",
        "selective_search,mode=small",
        "selective_search,mode=exact,min_size=0",
        "grid",
    )
    """Proposers as NAME[,SETTING=VALUE...]. The settings are those in a checkpoint's config.json."""
    split: str = "test"
    """Split to measure on."""
    limit: int | None = 30
    """Number of images of each data set, spread over the split."""
    mosaic: int = 3
    """Adds a data set of small objects: each picture is a grid of N x N shrunken images. 0: none."""
    reference: bool = True
    """Compare with OpenCV's fast mode, which takes one to three seconds per image."""
    price_per_core_hour: float = 0.04
    """Price of a core in dollars, for the cost of 100 million images."""
    output: Path = OUTPUT / "proposals"
    """Local folder for table, plot and results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Data", common=("split", "limit", "mosaic")),
        Group(title="Comparison", common=("proposers", "reference", "price_per_core_hour")),
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
class DecodeConfig:
    """Flags of `jobs/benchmark.py decode`."""

    data: tuple[Uri, ...]
    """Folders or URIs of images. Only plain JPEGs are used."""
    limit: int = 100
    """Number of images of each folder, spread over it."""
    rounds: int = 7
    """Number of times that each decoder decodes each image. The median time is used."""
    output: Path = OUTPUT / "decode"
    """Local folder for table and results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Measurement", common=("limit", "rounds")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorBenchmarkConfig:
    """Flags of `jobs/benchmark.py detector`."""

    images: Path
    """Local folder of images."""
    checkpoint: Uri | None = None
    """A trained detector. Without one, weights are random: nothing is detected, and NMS takes no time."""
    backbone: str = "mobilenet_v2"
    """Backbone if there is no checkpoint, as for `jobs/train.py`."""
    scale: int = 480
    """Length of the shorter image side in the model if there is no checkpoint, in pixels."""
    proposals: str = "selective_search"
    """Proposer: selective_search or grid."""
    max_proposals: tuple[int, ...] = (300, 1000)
    """Numbers of proposals per image. One table for each."""
    batch_size: int = 8
    """Images per forward pass."""
    count: int = 48
    """Number of images per round."""
    rounds: int = 3
    """Number of times that each detector is measured. The median is used."""
    output: Path = OUTPUT / "detector"
    """Local folder for results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Detector", common=("checkpoint", "backbone", "scale", "proposals")),
        Group(title="Measurement", common=("max_proposals", "batch_size", "count", "rounds")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreBenchmarkConfig:
    """Flags of `jobs/benchmark.py score`."""

    images: Path
    """Local folder of images."""
    weights: str = "none"
    """Weights of the backbone, as for `jobs/train.py`. The time does not depend on them."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    scale: int = 480
    """Length of the shorter image side in the model, in pixels."""
    proposals: str = "selective_search"
    """Proposer: selective_search, grid, or rpn (with random weights, like the heads)."""
    max_proposals: int = 1000
    """Proposals per image."""
    count: int = 300
    """Number of images per round. If the folder holds fewer, its images are repeated."""
    counts: tuple[int, ...] = ()
    """Measure only the scoring job, once for each of these numbers of images."""
    nodes: int = 1
    """Number of nodes of the Ray cluster. All run on this machine and share its cores."""
    bucket: bool = False
    """Read from and write to an S3 server on this machine, which uses some of its cores. Default: folders."""
    rounds: int = 3
    """Number of times that detector, job and example are measured in turn. The medians are used."""
    num_workers: int | None = None
    """Number of detector actors of the job, and of the example."""
    batch_size: int = 8
    """Images per forward pass, for all three."""
    output: Path = OUTPUT / "score"
    """Local folder for results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(
            title="Detector",
            common=("backbone", "weights", "scale", "proposals", "max_proposals"),
        ),
        Group(
            title="Measurement",
            common=("count", "counts", "rounds", "num_workers", "batch_size", "nodes", "bucket"),
        ),
    )

    def __post_init__(self) -> None:
        check_above_zero(
            self, "count", "rounds", "num_workers", "batch_size", "max_proposals", "nodes"
        )
        # A rate is measured between batches, so two are needed.
        fewest = 2 * self.batch_size
        for flag, count in (("--count", self.count), *(("--counts", c) for c in self.counts)):
            if count < fewest:
                raise UserError(
                    f"{flag} {count}", "expected at least two batches", f"Give at least {fewest}."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConfig:
    """Flags of `jobs/benchmark.py scale`."""

    keys: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    """Numbers of keys. One bucket for each."""
    shard_size: int = 1000
    """Rows per Parquet file, as for `jobs/score_bucket.py`."""
    output: Path = OUTPUT / "scale"
    """Local folder for results.json and the tables, which are deleted again. Ten million keys need 1 GB."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Measurement", common=("keys", "shard_size")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """Flags of `jobs/benchmark.py memory`."""

    image: Path
    """An image file."""
    checkpoint: Uri
    """A detector. With a small one, less of the time is spent on detection."""
    keys: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Lengths of the lists. One job for each."""
    output: Path = OUTPUT / "memory"
    """Local folder for results.json and the tables, which are deleted again."""

    GROUPS: ClassVar[Groups] = (Group(title="Measurement", common=("keys", "output")),)


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
            num_workers=num_workers,
            validate_every=self.iterations,
            # Otherwise norms use only the share of their worker, and each worker rounds its gradients.
            set=("frozen_norm=true", "mixed_precision=false"),
        )
