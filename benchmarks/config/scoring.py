"""Flags of the benchmarks of scoring and of its steps: proposals, decoding, the detector, the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks import OUTPUT
from pipeline.config import check_above_zero
from pipeline.errors import UserError
from pipeline.runtime.flags import Group, Groups, Uri


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
class DecodeConfig:
    """Flags of `jobs/benchmark.py decode`."""

    data: tuple[Uri, ...]
    """Folders or URIs of images. Only plain JPEGs are used."""
    limit: int = 100
    """Number of images of each folder, spread over it."""
    rounds: int = 7
    """Number of times that each decoder decodes each image. The median time is used."""
    format_images: int = 12
    """Number of images of the first folder that are encoded in all formats, for the table of formats."""
    before: Path | None = None
    """Another checkout of this project. The table of formats then has its times too."""
    output: Path = OUTPUT / "decode"
    """Local folder for table and results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Measurement", common=("limit", "rounds", "format_images", "before")),
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
class FeedConfig:
    """Flags of `jobs/benchmark.py feed`."""

    images: Path
    """Local folder of images."""
    batch_size: int = 8
    """Images per batch."""
    count: int = 12_000
    """Number of images per round. With few, the start of the actors counts too. If the folder holds fewer,
    its images are repeated."""
    rounds: int = 3
    """Number of times that each way is measured. The median is used."""
    output: Path = OUTPUT / "feed"
    """Local folder for results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Measurement", common=("batch_size", "count", "rounds")),
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
    daft: bool = False
    """Measure Daft with the detector of Ray's example too. It needs `make peers`, and images in a folder."""
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
            common=(
                "count",
                "counts",
                "rounds",
                "num_workers",
                "batch_size",
                "nodes",
                "bucket",
                "daft",
            ),
        ),
    )

    def __post_init__(self) -> None:
        check_above_zero(
            self, "count", "rounds", "num_workers", "batch_size", "max_proposals", "nodes"
        )
        if self.daft and (self.bucket or self.counts):
            raise UserError(
                "--daft", "goes without --bucket and --counts", "Leave out --daft, or the other."
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
class LabelsConfig:
    """Flags of `jobs/benchmark.py labels`."""

    boxes: int = 1_000_000
    """Number of boxes in the COCO file."""
    files: int = 100_000
    """Number of label files on S3."""
    output: Path = OUTPUT / "labels"
    """Local folder for results.json and the COCO file with its images, which are empty files."""

    GROUPS: ClassVar[Groups] = (Group(title="Measurement", common=("boxes", "files", "output")),)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivesConfig:
    """Flags of `jobs/benchmark.py archives`."""

    image: Path
    """A photograph, which is read many times."""
    members: int = 1_000_000
    """Number of small files in all tars, which are listed."""
    tars: int = 100
    """Number of tars with these."""
    photographs: int = 5000
    """Number of copies of the photograph, in tars and as loose objects."""
    output: Path = OUTPUT / "archives"
    """Local folder for results.json and the plans. The server holds all objects in memory."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Measurement", common=("members", "tars", "photographs", "output")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SahiConfig:
    """Flags of `jobs/benchmark.py sahi`."""

    checkpoint: Uri
    """A detector."""
    tile: int = 640
    """Side of the tiles, in pixels."""
    tile_overlap: float = 0.2
    """Share of a tile that two neighbours have in common."""
    min_score: float = 0.05
    """Boxes below this score do not count."""
    images: int = 4
    """Number of drawn images."""
    size: tuple[int, int] = (2000, 3000)
    """Height and width of the images."""
    rounds: int = 3
    """Number of times that each image is looked at. The fastest time counts."""
    seed: int = 0
    """Seed for drawing the images."""
    output: Path = OUTPUT / "sahi"
    """Local folder for images, sahi.md and results.json."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Output", common=("output",)),
        Group(title="Tiles", common=("tile", "tile_overlap", "min_score")),
        Group(title="Images", common=("images", "size", "rounds", "seed")),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "tile", "images", "rounds")


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
class StartUpConfig:
    """Flags of `jobs/benchmark.py start-up`."""

    image: Path
    """A photograph. Copies of it are scored."""
    checkpoint: Uri
    """A detector. The folder is read by the workers, so it must be a URI or an absolute path."""
    images: int = 8
    """Number of copies."""
    rounds: int = 3
    """Number of jobs, one after the other."""
    output: Path = OUTPUT / "start-up"
    """Local folder for results.json and the log of the cluster."""

    GROUPS: ClassVar[Groups] = (Group(title="Measurement", common=("images", "rounds", "output")),)

    def __post_init__(self) -> None:
        check_above_zero(self, "images", "rounds")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """Flags of `jobs/benchmark.py head`."""

    image: Path
    """A photograph that is scored again and again."""
    checkpoint: Uri
    """A detector. A small one is enough."""
    keys: int = 100_000
    """Length of the list. One key in a hundred is the photograph; the others are empty files."""
    output: Path = OUTPUT / "head"
    """Local folder for results.json and the list, which is deleted again."""

    GROUPS: ClassVar[Groups] = (Group(title="Measurement", common=("keys", "output")),)

    def __post_init__(self) -> None:
        check_above_zero(self, "keys")
