"""Flags of the tools beside training and scoring: compressing, drawing, proposals in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.config.checks import check_above_zero
from pipeline.config.score import ScoreConfig
from pipeline.errors import UserError
from pipeline.runtime.flags import Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressConfig:
    """Flags of `jobs/compress.py`."""

    checkpoint: Uri
    """Folder with model.safetensors and config.json, or the --output of a training run."""
    output: Uri
    """Where the new checkpoint is written; it must not hold one."""
    fc6_rank: int = 1024
    """Singular values of fc6 to keep (the paper's number, for a layer of 4096)."""
    fc7_rank: int = 256
    """Singular values of fc7 to keep."""
    dry_run: bool = False
    """Print the numbers of weights; write nothing."""

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
    """Folder or any fsspec URI; shapes/ (labelled) and inbox/ (to be scored) are written below it."""
    train: int = 300
    """Labelled images in the split `train`."""
    val: int = 40
    """Labelled images in the split `val`."""
    test: int = 90
    """Labelled images in the split `test`."""
    score: int = 100
    """Files in the inbox, a tenth of them broken: test images first, then scenes of no split."""
    seed: int = 0
    """The same seed and numbers give the same files, byte for byte."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Numbers of images", common=("train", "val", "test", "score")),
        Group(title="Run", common=("seed",)),
    )

    def __post_init__(self) -> None:
        for flag in ("train", "val", "test", "score"):
            if getattr(self, flag) < 0:
                raise UserError(
                    f"--{flag} {getattr(self, flag)}", "is a number of images", "Give 0 or more."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig:
    """Flags of `jobs/import_proposals.py`."""

    source: Uri
    """The file of proposals: .mat or .pkl."""
    data: Uri
    """The labelled images they belong to, as for `jobs/train.py`."""
    output: Uri
    """The Parquet file to write."""
    split: str = "train"
    """The images that need proposals."""

    GROUPS: ClassVar[Groups] = (Group(title="Data", common=("split",)),)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportProposalsConfig:
    """Flags of `jobs/export_proposals.py`."""

    checkpoint: Uri
    """A detector trained with --proposals rpn, as for `jobs/score_bucket.py`."""
    images: Uri
    """Images to propose on: a prefix, a glob or a list; for a training set, the prefix above its images."""
    output: Uri
    """Folder of the table, which --proposals of other jobs takes. Run again with the same one to continue."""
    batch_size: int = 8
    """Images per forward pass."""
    num_workers: int | None = None
    """Actors with the model. By default one per GPU, or on CPUs half the cluster's CPUs."""
    gpus_per_worker: float | None = None
    """GPUs per actor. By default 1 where the cluster has GPUs, else 0."""
    max_failures: float = 0.01
    """Largest share of images that may have no row at the end."""
    limit: int | None = None
    """Use only the first N images, in order of their URI."""
    dry_run: bool = False
    """Print how many images there are to do; write nothing."""
    allow_open_cluster: bool = False
    """Join a Ray cluster of other machines that asks for no token: whoever reaches it runs code on it."""

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

    def scoring(self) -> ScoreConfig:
        """The scoring job that reads the same images by the same model."""
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
