"""Flags of `jobs/score_bucket.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.config.checks import (
    check_above_zero,
    check_not_negative,
    check_share,
    check_uris,
    require,
)
from pipeline.runtime.flags import Group, Groups, Uri

Precision = Literal["auto", "float32"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Flags of `jobs/score_bucket.py`."""

    images: Uri
    """What to score: a prefix, a glob in quotes, or a list (.txt, .csv, .parquet of URIs)."""
    checkpoint: Uri
    """Folder with model.safetensors and config.json, or the --output of a training run."""
    output: Uri
    """Where plans/, scored/ and runs/ are written. Run again with the same one to continue."""
    proposals: str | None = None
    """Name of a proposer, or URI of a proposals table. By default the proposer that the checkpoint was
    trained with."""
    include: tuple[str, ...] = ()
    """Score only objects that match one of these globs, whatever their suffix. '*.scan' matches in any
    folder, 'a/*.jpg' below --images. Put globs in quotes."""
    exclude: tuple[str, ...] = ()
    """Leave out objects that match one of these globs."""
    num_workers: int | None = None
    """Detector actors. By default one per GPU, or on CPUs half the cluster's CPUs."""
    gpus_per_worker: float | None = None
    """GPUs per actor. By default 1 where the cluster has GPUs, else 0."""
    batch_size: int = 8
    """Images per forward pass."""
    shard_size: int = 1000
    """Rows per Parquet file in scored/."""
    score_threshold: float | None = None
    """Lowest score written. By default the checkpoint's."""
    precision: Precision = "auto"
    """auto: bfloat16 where the GPU or CPU has instructions for it, up to twice as fast; scores then differ
    from float32's in the third digit. float32: the same rows from every kind of machine."""
    compile: bool = False
    """Compile the backbone with torch.compile on GPUs: each Detector starts a minute or more later. Not
    measured."""
    max_bytes: int = 100_000_000
    """Largest object, in bytes. Larger ones are rows with status `too_large`, never fetched."""
    max_pixels: int = 100_000_000
    """Largest image, in pixels. Larger ones are rows with status `too_large`, never decoded."""
    seed: int = 0
    """Seed of the proposals' order."""
    fresh: bool = False
    """Score every image again, as a new run beside the old one: for when a new version of this program
    decodes some images better. The same command again continues that new run."""
    limit: int | None = None
    """Score only the first N images, in order of their URI."""
    dry_run: bool = False
    """Print counts, sizes and cost; write nothing."""
    max_failures: float = 1.0
    """Largest share of rows that may have another status than `ok`. Above it the job stops with exit code
    1."""
    max_unreachable: float = 0.5
    """Stop when the store did not give more than this share of the last 200 images (expired credentials, an
    outage). Nothing of them is written; the same command continues. 1 never stops."""
    price_per_cpu_hour: float | None = None
    """Price of a CPU in dollars, for estimates of cost."""
    price_per_gpu_hour: float | None = None
    """Price of a GPU in dollars, for estimates of cost."""
    allow_open_cluster: bool = False
    """Join a Ray cluster of other machines that asks for no token: whoever reaches it runs code on it."""

    GROUPS: ClassVar[Groups] = (
        Group(
            title="Images",
            common=("include", "exclude", "limit"),
            more=("max_bytes", "max_pixels", "max_failures", "max_unreachable"),
        ),
        Group(
            title="Detector",
            common=("score_threshold", "precision"),
            more=("proposals", "compile", "seed"),
        ),
        Group(
            title="Workers",
            common=("num_workers", "gpus_per_worker", "batch_size"),
            more=("allow_open_cluster",),
        ),
        Group(
            title="Run",
            common=("dry_run",),
            more=("fresh", "shard_size", "price_per_cpu_hour", "price_per_gpu_hour"),
        ),
    )

    def __post_init__(self) -> None:
        check_uris(self, "images", "checkpoint", "output")
        check_above_zero(
            self, "num_workers", "batch_size", "shard_size", "max_bytes", "max_pixels", "limit"
        )
        check_not_negative(self, "gpus_per_worker", "price_per_cpu_hour", "price_per_gpu_hour")
        require(
            self.score_threshold is None or 0 <= self.score_threshold <= 1,
            f"--score-threshold {self.score_threshold}",
            "is no probability",
            "Give a number from 0 to 1.",
        )
        check_share(self.max_failures)
        require(
            0 < self.max_unreachable <= 1,
            f"--max-unreachable {self.max_unreachable}",
            "is a share of the images",
            "Give a number above 0, up to 1.",
        )
