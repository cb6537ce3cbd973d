"""Flags of `jobs/score_bucket.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.config.checks import (
    MOST_BYTES,
    MOST_DETECTIONS,
    MOST_SECONDS,
    check_above_zero,
    check_gpus_per_worker,
    check_not_negative,
    check_samples,
    check_seeds,
    check_share,
    check_tiles,
    check_uris,
    require,
)
from pipeline.runtime.flags import Bands, Group, Groups, Range, Uri

Precision = Literal["auto", "float32"]
Truncated = Literal["warn", "refuse"]
Retried = Literal[
    "unreadable", "denied", "missing", "changed", "failed", "undecodable", "too_large", "none"
]
ListFormat = Literal["auto", "s3-batch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Flags of `jobs/score_bucket.py`."""

    images: Uri
    """Images to score: a prefix, a glob in quotes, an archive (.tar, .zip, Parquet with images), or a list of
    URIs (.txt, .csv, .tsv, .jsonl, .parquet, an S3 Inventory)."""
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
    archives: bool = False
    """Open the archives below --images too (.tar, .zip, .parquet). Archives that --images, a glob or a list
    names are always opened."""
    image_column: str | None = None
    """Column of Parquet files with the images. Default: the only one of bytes, or of a struct with bytes and
    path."""
    uri_column: str | None = None
    """Column of a list with the URIs. Default: the first of image_uri, uri, url, path, file_name, or bucket
    and key."""
    list_format: ListFormat = "auto"
    """auto: a list is read by its suffix and its header. s3-batch: lines `bucket,key` without a header, as S3
    Batch Operations takes them."""
    list_root: Uri | None = None
    """Folder that relative entries of a list are relative to. Default: the folder of the list."""
    allow_http: bool = False
    """Read http:// addresses too, which are not encrypted."""
    allow_private_hosts: bool = False
    """Read web addresses of private, loopback and link-local hosts too. Only for lists that you trust."""
    num_workers: int | None = None
    """Number of detector actors. Default: one per GPU; without GPUs, half the number of CPUs."""
    gpus_per_worker: float | None = None
    """GPUs per actor. Default: 1 if the cluster has GPUs or can start nodes with GPUs, else 0."""
    max_workers: int | None = None
    """Maximum number of detector actors on a cluster that starts nodes. Default: as many as the images are
    worth and the cluster can have."""
    wait_for_nodes: float = 900.0
    """Seconds to wait for the first node of a cluster that starts nodes. The job then stops with exit code
    1."""
    batch_size: int = 8
    """Images per forward pass."""
    shard_size: int = 1000
    """Rows per Parquet file in scored/."""
    score_threshold: float | None = None
    """Minimum score of a written box, after calibration. Default: the checkpoint's, which is one before
    calibration, so that calibration loses no box."""
    precision: Precision = "auto"
    """auto: bfloat16 if the GPU or CPU supports it. This is up to twice as fast, and scores differ from
    float32 in the third digit. float32: the same rows on every kind of machine."""
    tile: int | None = None
    """Side of the tiles that larger images are divided into, in pixels. The detector looks at each tile and
    at the whole image (docs/tiles.md). 0: no tiles. Default: the checkpoint's."""
    tile_overlap: float | None = None
    """Share of --tile that two neighbouring tiles have in common. Default: the checkpoint's, which is 0.2
    unless a flag of the training gave another."""
    max_detections: int | None = None
    """Boxes of an image at most; with tiles, boxes of each tile. An image never has more than 32,000.
    Default: the checkpoint's, mostly 100."""
    compile: bool = False
    """Compile the backbone with torch.compile on GPUs. Each actor starts a minute or more later. The speed is
    not measured."""
    max_bytes: int = 100_000_000
    """Maximum size of an object, in bytes. A larger object is not read; its row has status `too_large`."""
    max_bytes_whole: int = 64_000_000
    """With tiles, a TIFF of more bytes is read in parts where its tiles or strips can be decoded alone
    (docs/tiles.md). Boxes change by rounding only."""
    max_pixels: int = 100_000_000
    """Pixels that are decoded at once. A larger image has status `too_large`; but with tiles, a TIFF whose
    tiles or strips can be decoded alone may have 10 times as many (docs/tiles.md)."""
    range: Range | None = None
    """Samples that become black and white, for images of more than 8 bits, signed or float samples. Default:
    the checkpoint's; without one, what each file declares, else the range of the sample type."""
    bands: Bands | None = None
    """Bands that become red, green and blue, counted from 1. Default: the checkpoint's; without them, the
    first three."""
    truncated: Truncated = "warn"
    """What to do with a JPEG that lacks its end but has at least 95% of its rows: `warn` uses it, `refuse`
    gives its row the status `undecodable`. A JPEG with fewer rows is never used."""
    seed: int = 0
    """Seed for the order of the proposals."""
    fresh: bool = False
    """Score all images again as a new run beside the old one, for example after an update that decodes more
    images. The same command continues the new run."""
    verify: bool = False
    """Before scoring, read every shard of the run and compare its SHA-256 with the manifest. Without this
    flag, only sizes and ETags are compared."""
    repair: bool = False
    """Move damaged shards to runs/<run_id>/damaged/ and score their images again. Needs the permission to
    delete under scored/. With --verify, damage that leaves the size as it was is found too."""
    rebuild_plan: bool = False
    """If plans/ is lost, damaged or of another output, make it again from the shards. Needs the permission to
    delete under plans/."""
    limit: int | None = None
    """Score only the first N images, in URI order."""
    dry_run: bool = False
    """Print counts, sizes and cost, write nothing."""
    max_failures: float = 1.0
    """Maximum share of rows with a status other than `ok`. Above it, the job stops with exit code 1."""
    max_unreachable: float = 0.2
    """Stop if the store does not give more than this share of the last 200 images (they are denied,
    unreadable, missing or changed). No shard with such images is written; the same command continues.
    1: never stop."""
    retry: tuple[Retried, ...] = ("unreadable", "denied")
    """Score images again whose row has one of these statuses. An image that failed alike in three retries is
    left alone. none: score none again."""
    retry_again: bool = False
    """Score also those images again that failed alike in three retries."""
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
            common=("include", "exclude", "archives", "limit", "retry"),
            more=(
                "image_column",
                "range",
                "bands",
                "max_bytes",
                "max_bytes_whole",
                "max_pixels",
                "truncated",
                "max_failures",
                "max_unreachable",
                "retry_again",
            ),
        ),
        Group(
            title="Lists of images",
            more=("uri_column", "list_format", "list_root", "allow_http", "allow_private_hosts"),
        ),
        Group(
            title="Detector",
            common=("score_threshold", "tile", "precision"),
            more=("proposals", "tile_overlap", "max_detections", "compile", "seed"),
        ),
        Group(
            title="Workers",
            common=("num_workers", "gpus_per_worker", "batch_size"),
            more=("max_workers", "wait_for_nodes", "allow_open_cluster"),
        ),
        Group(
            title="Run",
            common=("dry_run",),
            more=(
                "fresh",
                "verify",
                "repair",
                "rebuild_plan",
                "shard_size",
                "price_per_cpu_hour",
                "price_per_gpu_hour",
            ),
        ),
    )

    def __post_init__(self) -> None:
        check_uris(self, "images", "checkpoint", "output")
        if self.list_root is not None:
            check_uris(self, "list_root")
        check_above_zero(self, "num_workers", "max_workers", "batch_size", "shard_size", "limit")
        check_above_zero(self, "max_bytes", "max_bytes_whole", "max_pixels", most=MOST_BYTES)
        check_gpus_per_worker(self.gpus_per_worker)
        check_not_negative(self, "wait_for_nodes", most=MOST_SECONDS)
        check_not_negative(self, "price_per_cpu_hour", "price_per_gpu_hour", most=1_000_000)
        check_seeds("--seed", self.seed, least=-(2**63))
        check_above_zero(self, "max_detections", most=MOST_DETECTIONS)
        check_tiles(self)
        require(
            self.score_threshold is None or 0 <= self.score_threshold <= 1,
            f"--score-threshold {self.score_threshold}",
            "expected a score from 0 to 1",
            "Give another number.",
        )
        for name, given in (("--repair", self.repair), ("--rebuild-plan", self.rebuild_plan)):
            require(
                not (given and self.dry_run),
                f"{name} --dry-run",
                "a repair writes, and a dry run writes nothing",
                "Leave out one of the two.",
            )
        check_share(self.max_failures)
        check_samples(self)
        require(
            0 < self.max_unreachable <= 1,
            f"--max-unreachable {self.max_unreachable}",
            "expected a share of the images, above 0 and at most 1",
            "Give another number.",
        )
        require(
            "none" not in self.retry or self.retry == ("none",),
            f"--retry {' '.join(self.retry)}",
            "none stands beside other statuses",
            "Give none alone, or only statuses.",
        )

    @property
    def most_workers(self) -> int | None:
        """The largest number of detector actors that --num-workers and --max-workers allow. None: any."""
        return min((n for n in (self.num_workers, self.max_workers) if n is not None), default=None)

    @property
    def retried(self) -> tuple[str, ...]:
        """The statuses of --retry, without `none`."""
        return tuple(status for status in self.retry if status != "none")
