"""Flags of `jobs/score_bucket.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.config.checks import (
    MOST_BYTES,
    check_above_zero,
    check_not_negative,
    check_seeds,
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
    """Images to score: a prefix, a glob in quotes, or a list of URIs (.txt, .csv, .parquet)."""
    checkpoint: Uri
    """Folder with model.safetensors and config.json, or the --output of a training."""
    output: Uri
    """Folder for plans/, scored/ and runs/. To continue, run again with the same folder."""
    proposals: str | None = None
    """Name of a proposer, or URI of a proposals table. Default: the proposer that the checkpoint was trained
    with."""
    include: tuple[str, ...] = ()
    """Score only objects that match one of these globs, with any suffix. '*.scan' matches in every folder,
    'a/*.jpg' below --images. Put globs in quotes."""
    exclude: tuple[str, ...] = ()
    """Leave out objects that match one of these globs."""
    num_workers: int | None = None
    """Number of detector actors. Default: one per GPU; without GPUs, half the number of CPUs."""
    gpus_per_worker: float | None = None
    """GPUs per actor. Default: 1 if the cluster has GPUs, else 0."""
    batch_size: int = 8
    """Images per forward pass."""
    shard_size: int = 1000
    """Rows per Parquet file in scored/."""
    score_threshold: float | None = None
    """Minimum score of a written box. Default: the checkpoint's."""
    precision: Precision = "auto"
    """auto: bfloat16 if the GPU or CPU supports it. This is up to twice as fast, and scores differ from
    float32 in the third digit. float32: the same rows on every kind of machine."""
    compile: bool = False
    """Compile the backbone with torch.compile on GPUs. Each actor starts a minute or more later. The speed is
    not measured."""
    max_bytes: int = 100_000_000
    """Maximum size of an object, in bytes. A larger object is not read; its row has status `too_large`."""
    max_pixels: int = 100_000_000
    """Maximum size of an image, in pixels. A larger image is not decoded; its row has status `too_large`."""
    seed: int = 0
    """Seed for the order of the proposals."""
    fresh: bool = False
    """Score all images again as a new run beside the old one, for example after an update that decodes more
    images. The same command continues the new run."""
    limit: int | None = None
    """Score only the first N images, in URI order."""
    dry_run: bool = False
    """Print counts, sizes and cost, write nothing."""
    max_failures: float = 1.0
    """Maximum share of rows with a status other than `ok`. Above it, the job stops with exit code 1."""
    max_unreachable: float = 0.5
    """Stop if more than this share of the last 200 images cannot be read from the store (expired credentials,
    an outage). Their rows are not written; the same command continues. 1: never stop."""
    price_per_cpu_hour: float | None = None
    """Price of a CPU in dollars, for the estimated cost."""
    price_per_gpu_hour: float | None = None
    """Price of a GPU in dollars, for the estimated cost."""
    allow_open_cluster: bool = False
    """Allow a Ray cluster on other machines without token authentication. Anyone who can connect to it can
    run code on it."""

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
        check_above_zero(self, "num_workers", "batch_size", "shard_size", "limit")
        check_above_zero(self, "max_bytes", "max_pixels", most=MOST_BYTES)
        check_not_negative(self, "gpus_per_worker", most=1000)
        check_not_negative(self, "price_per_cpu_hour", "price_per_gpu_hour", most=1_000_000)
        check_seeds("--seed", self.seed, least=-(2**63))
        require(
            self.score_threshold is None or 0 <= self.score_threshold <= 1,
            f"--score-threshold {self.score_threshold}",
            "expected a score from 0 to 1",
            "Give another number.",
        )
        check_share(self.max_failures)
        require(
            0 < self.max_unreachable <= 1,
            f"--max-unreachable {self.max_unreachable}",
            "expected a share of the images, above 0 and at most 1",
            "Give another number.",
        )
