"""Flags of the benchmarks, a class each. They import nothing heavy, so that --help is quick."""

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
    """Flags of `jobs/benchmark.py accuracy`; the defaults are for bccd on two cores."""

    data: Path
    """Local labelled data set."""
    weights: str = "imagenet"
    """Initial weights, as for `jobs/train.py`."""
    output: Path = OUTPUT
    """Local folder for the tables, curves, logs and trained detectors."""
    split: str = "trainval"
    """Labelled images to train on."""
    test_split: str = "test"
    """Labelled images to score and evaluate."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    proposals: str = "grid"
    """Where candidate boxes come from, as for `jobs/train.py`."""
    max_proposals: int = 4000
    """Candidate boxes per image."""
    scale: int = 480
    """Shorter side of the image in the model, in pixels."""
    fc_dim: int = 1024
    """Width of fc6 and fc7."""
    rois_per_image: int = 256
    """RoIs sampled from each image of a step."""
    batch_size: int = 2
    """Images per step."""
    learning_rate: float = 0.01
    """Learning rate of the first steps after the warm-up."""
    epochs: float = 12
    """Passes over the training images."""
    set: tuple[str, ...] = ()
    """Other numbers of model and solver as NAME=VALUE, as for `jobs/train.py`."""
    seeds: tuple[int, ...] = (3,)
    """Seeds of sampling, shuffling and flips: one training each."""

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
    """Labelled data sets: folders or URIs."""
    proposers: tuple[str, ...] = (
        "selective_search",
        "selective_search,max_side=256",
        "selective_search,max_side=400",
        "selective_search,mode=small",
        "selective_search,mode=exact,min_size=0",
        "grid",
    )
    """Proposers as NAME[,SETTING=VALUE...], with the settings of a checkpoint's config.json."""
    split: str = "test"
    """Images to measure on."""
    limit: int | None = 30
    """Images of each data set, spread over the split."""
    mosaic: int = 3
    """Adds a set of pictures made of this many images squared: small objects where data has none. 0: none."""
    reference: bool = True
    """Leave out the comparison with OpenCV's fast mode, which takes one to three seconds an image."""
    price_per_core_hour: float = 0.04
    """Price in dollars, for the cost of 100 million images."""
    output: Path = OUTPUT / "proposals"
    """Local folder for the table, the plot and results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Data", common=("split", "limit", "mosaic")),
        Group(title="Comparison", common=("proposers", "reference", "price_per_core_hour")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposersConfig:
    """Flags of `jobs/benchmark.py proposers`; the defaults are for two cores."""

    data: tuple[Uri, ...]
    """Labelled data sets, tested on `test`; trained on is `trainval`, or `train` where there is none."""
    weights: str = "imagenet"
    """Initial weights, as for `jobs/train.py`."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    scale: int = 240
    """Shorter side of the image in the model, in pixels."""
    fc_dim: int = 256
    """Width of fc6 and fc7."""
    max_proposals: int = 2000
    """Proposals per image; of an RPN the best 1000 at test (torchvision's number)."""
    rois_per_image: int = 64
    """RoIs sampled from each image of a step."""
    epochs: float = 4
    """Passes over the training images."""
    learning_rate: float = 0.005
    """Learning rate of our trainings; torchvision's recipe has half of it for two images a step."""
    seeds: tuple[int, ...] = (3, 4, 5)
    """Seeds: one training each."""
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
    """Folders or URIs; only their plain JPEGs are used."""
    limit: int = 100
    """Images of each folder, spread over it."""
    rounds: int = 7
    """How often each decoder gets each image; the median time counts."""
    output: Path = OUTPUT / "decode"
    """Local folder for the table and results.json."""

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
    """A trained detector. Without one its weights are random, nothing is found, and suppression is free."""
    backbone: str = "mobilenet_v2"
    """Backbone of a detector without a checkpoint, as for `jobs/train.py`."""
    scale: int = 480
    """Shorter side of the image in a detector without a checkpoint, in pixels."""
    proposals: str = "selective_search"
    """Where candidate boxes come from: selective_search or grid."""
    max_proposals: tuple[int, ...] = (300, 1000)
    """Proposals per image: one table each."""
    batch_size: int = 8
    """Images per forward pass."""
    count: int = 48
    """Images per round."""
    rounds: int = 3
    """How often each side is measured; the median counts."""
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
    """Weights of the backbone, as for `jobs/train.py`; the time does not depend on them."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    scale: int = 480
    """Shorter side of the image in the model, in pixels."""
    proposals: str = "selective_search"
    """selective_search, grid, or rpn: the detector's RPN, with random weights like the rest."""
    max_proposals: int = 1000
    """Proposals per image."""
    count: int = 300
    """Images per round; where the folder holds fewer, its images are repeated."""
    counts: tuple[int, ...] = ()
    """Measure the whole job alone on these numbers of images, once each, instead of the comparison."""
    nodes: int = 1
    """Nodes of the Ray cluster, all on this machine, which share its cores."""
    bucket: bool = False
    """Read from and write to an S3 server on this machine, which uses some of the cores; else folders."""
    rounds: int = 3
    """How often the bare Detector, the job and the example take turns; the medians count."""
    num_workers: int | None = None
    """Detectors of the job, and of the example."""
    batch_size: int = 8
    """Images per forward pass, on all sides."""
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
        # A rate is measured between batches.
        fewest = 2 * self.batch_size
        for flag, count in (("--count", self.count), *(("--counts", c) for c in self.counts)):
            if count < fewest:
                raise UserError(
                    f"{flag} {count}", "is less than two batches", f"Give at least {fewest}."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConfig:
    """Flags of `jobs/benchmark.py scale`."""

    keys: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    """Numbers of keys: one bucket each."""
    shard_size: int = 1000
    """Rows per Parquet file, as for `jobs/score_bucket.py`."""
    output: Path = OUTPUT / "scale"
    """Local folder for the tables (removed again) and results.json; ten million keys take 1 GB."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Measurement", common=("keys", "shard_size")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryConfig:
    """Flags of `jobs/benchmark.py memory`."""

    image: Path
    """A photograph."""
    checkpoint: Uri
    """A detector; a small one leaves more of the time to what is measured."""
    keys: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Lengths of the lists: one job each."""
    output: Path = OUTPUT / "memory"
    """Local folder for the tables (removed again) and results.json."""

    GROUPS: ClassVar[Groups] = (Group(title="Measurement", common=("keys", "output")),)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBenchmarkConfig:
    """Flags of `jobs/benchmark.py train`; the defaults are for two cores."""

    data: Uri
    """Labelled data set, local or any URI."""
    weights: str = "none"
    """Weights of the backbone, as for `jobs/train.py`; the time does not depend on them."""
    split: str = "train"
    """Images to train on."""
    backbone: str = "mobilenet_v2"
    """Backbone, as for `jobs/train.py`."""
    proposals: str = "grid"
    """Proposals as for `jobs/train.py`, but not rpn; computed before the clock runs."""
    max_proposals: int = 1000
    """Proposals per image."""
    scale: int = 240
    """Shorter side of the image in the model, in pixels."""
    fc_dim: int = 256
    """Width of fc6 and fc7."""
    rois_per_image: int = 64
    """RoIs sampled from each image of a step."""
    batch_size: int = 4
    """Images per step, over all workers."""
    iterations: int = 20
    """Steps of each run."""
    learning_rate: float = 0.005
    """Learning rate; small enough for any weights, since only the time and equal losses matter."""
    seed: int = 3
    """Seed of order, flips, samples and initialisation."""
    workers: tuple[int, ...] = (1, 2, 4)
    """Numbers of workers; the others are compared with the first."""
    limit: int | None = 64
    """Number of images used."""
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
                "torchvision's RoIHeads, the other side, are given their proposals",
                "Give another proposer, or jobs/ablate.py --comparisons faster_rcnn.",
            )

    def training(self, output: str, num_workers: int) -> TrainConfig:
        """The flags of `jobs/train.py` for a run with so many workers."""
        numbers = asdict(self)
        for name in ("workers", "output"):
            del numbers[name]
        return TrainConfig(
            **numbers,
            output=output,
            num_workers=num_workers,
            validate_every=self.iterations,
            # Else each worker's norms see its share alone, and gradients are rounded by each worker.
            set=("frozen_norm=true", "mixed_precision=false"),
        )
