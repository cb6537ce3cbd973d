"""Flags of the tools: compress, draw-scenes, import-proposals, export-proposals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.config.checks import check_above_zero, check_not_negative, check_seeds, check_share
from pipeline.config.score import ScoreConfig
from pipeline.runtime.flags import Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressConfig:
    """Flags of `jobs/compress.py`."""

    checkpoint: Uri
    """Folder with model.safetensors and config.json, or the --output of a training."""
    output: Uri
    """Folder for the new checkpoint. It must not hold a checkpoint yet."""
    fc6_rank: int = 1024
    """Singular values of fc6 to keep. Default: the paper's, for a layer of width 4096."""
    fc7_rank: int = 256
    """Singular values of fc7 to keep. Default: the paper's."""
    dry_run: bool = False
    """Print the numbers of weights, write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Size", common=("fc6_rank", "fc7_rank")),
        Group(title="Run", common=("dry_run",)),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "fc6_rank", "fc7_rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawConfig:
    """Flags of `jobs/draw_scenes.py`."""

    output: Uri
    """Folder or fsspec URI for shapes/ (labelled images) and inbox/ (files to score)."""
    train: int = 300
    """Number of labelled images in the split `train`."""
    val: int = 40
    """Number of labelled images in the split `val`."""
    test: int = 90
    """Number of labelled images in the split `test`."""
    score: int = 100
    """Number of files in the inbox: the test images, then scenes of no split. A tenth is broken."""
    seed: int = 0
    """Seed of the drawing. The same seed and numbers give the same files, byte for byte."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Numbers of images", common=("train", "val", "test", "score")),
        Group(title="Run", common=("seed",)),
    )

    def __post_init__(self) -> None:
        check_not_negative(self, "train", "val", "test", "score")
        check_seeds("--seed", self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig:
    """Flags of `jobs/import_proposals.py`."""

    source: Uri
    """File of proposals: .mat or .pkl."""
    data: Uri
    """Labelled images that the proposals belong to, as for `jobs/train.py`."""
    output: Uri
    """Parquet file to write."""
    split: str = "train"
    """Split whose images need proposals."""

    GROUPS: ClassVar[Groups] = (Group(title="Data", common=("split",)),)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportProposalsConfig:
    """Flags of `jobs/export_proposals.py`."""

    checkpoint: Uri
    """Checkpoint of a detector trained with --proposals rpn, as for `jobs/score_bucket.py`."""
    images: Uri
    """Images that need proposals: a prefix, a glob or a list. For a training set: the prefix above its
    images."""
    output: Uri
    """Folder for the table; give it to other jobs as --proposals. To continue, run again with the same
    folder."""
    batch_size: int = 8
    """Images per forward pass."""
    num_workers: int | None = None
    """Number of actors with the model. Default: one per GPU; without GPUs, half the number of CPUs."""
    gpus_per_worker: float | None = None
    """GPUs per actor. Default: 1 if the cluster has GPUs, else 0."""
    max_failures: float = 0.01
    """Maximum share of images without a row at the end."""
    limit: int | None = None
    """Use only the first N images, in URI order."""
    dry_run: bool = False
    """Print the number of images to process, write nothing."""
    allow_open_cluster: bool = False
    """Allow a Ray cluster on other machines without token authentication. Anyone who can connect to it can
    run code on it."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Run", common=("limit", "dry_run"), more=("max_failures",)),
        Group(
            title="Workers",
            common=("num_workers", "gpus_per_worker", "batch_size"),
            more=("allow_open_cluster",),
        ),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "batch_size", "num_workers", "limit")
        check_not_negative(self, "gpus_per_worker", most=1000)
        check_share(self.max_failures)

    def scoring(self) -> ScoreConfig:
        """Give the flags of a scoring job with the same images and the same model."""
        return ScoreConfig(
            images=self.images,
            checkpoint=self.checkpoint,
            output=self.output,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            gpus_per_worker=self.gpus_per_worker,
            max_failures=self.max_failures,
            limit=self.limit,
        )
