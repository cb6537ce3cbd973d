"""Flags of training, scoring and evaluation: one frozen dataclass per job, one field per flag."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.errors import UserError
from pipeline.flags import Group, Groups, Uri
from pipeline.training.numbers import check_numbers
from pipeline.training.overrides import ModelOverrides, RPNOverrides, SolverOverrides

Preset = Literal["paper", "modern"]
Precision = Literal["auto", "float32"]


def _require(condition: bool, what: str, why: str, mend: str) -> None:
    if not condition:
        raise UserError(what, why, mend)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Flags of `jobs/train.py`."""

    data: Uri
    """Labelled images: a VOC, LabelImg, COCO or YOLO folder, local or any fsspec URI."""
    output: Uri
    """Where checkpoint, metrics and curves go. Run again with the same one to resume."""
    split: str = "train"
    """Images to train on, as the data set names them (VOC: ImageSets/Main/<split>.txt)."""
    val_split: str | None = None
    """Images to validate on. Default: `val` where the data has it and --split is `train`."""
    classes: tuple[str, ...] = ()
    """Class names, in label order. Default: every class in the annotations, sorted."""
    preset: Preset = "modern"
    """`paper`: the reference implementation's numbers. `modern`: what is trained today."""
    backbone: str | None = None
    """A name of `fastrcnn.config.BACKBONES`, e.g. vgg16, mobilenet_v2, tiny. Default: the preset's."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's hub), `none`, or the path or URI of a state_dict (.pth, .safetensors)."""
    proposals: str = "selective_search"
    """`selective_search` (ours), `opencv` (its selective search, a hundred times slower), `grid` (fitted to
    the training boxes), `rpn` (learnt with the model), or the URI of a proposals table."""
    proposal_mode: str = "fast"
    """`fast`; `small` finds objects below 32 px too, at a third of the speed; `exact` is OpenCV's `fast`,
    rebuilt. `opencv` has `fast` and `quality`; `grid` has `fast` and `unfitted`."""
    max_proposals: int = 2000
    """Proposals kept in each image, best first (paper, section 4)."""
    scale: int | None = None
    """Length of the shorter image side in the model, in pixels. The longest side becomes at most 5/3 of it,
    unless --model.max-size is given. Default: the preset's (600)."""
    rois_per_image: int | None = None
    """RoIs sampled from each image of a step. Default: the preset's."""
    fc_dim: int | None = None
    """Width of fc6 and fc7. Default: the backbone's."""
    model: ModelOverrides = ModelOverrides()
    """Every number of the model."""
    solver: SolverOverrides = SolverOverrides()
    """Every number of the training."""
    rpn: RPNOverrides = RPNOverrides()
    """Every number of the RPN."""
    set: tuple[str, ...] = ()
    """Numbers as NAME=VALUE, short for the flags of model, solver and RPN: momentum=0.8 is --solver.momentum
    0.8, test_scales=400,560 is --model.test-scales 400 560, rpn_nms=0.7 is --rpn.nms 0.7."""
    num_workers: int = 1
    """Ray Train workers, each one process."""
    min_workers: int | None = None
    """Minimum workers to continue with when nodes are lost. Default: wait for all. The result is the same
    with any number."""
    gpus_per_worker: float | None = None
    """GPUs of each worker. Default: 1 where the cluster has GPUs, else 0."""
    batch_size: int | None = None
    """Images a step over all workers. The preset's rate is scaled with it, unless --learning-rate is given.
    Default: the preset's."""
    iterations: int | None = None
    """SGD steps. Default: the preset's, or as many as --epochs takes."""
    epochs: float | None = None
    """Passes over the training images, instead of --iterations."""
    learning_rate: float | None = None
    """Base rate at the given batch size. Default: the preset's."""
    validate_every: int | None = None
    """Steps between validations, each with a checkpoint. Default: a tenth of the run."""
    keep_best: int = 2
    """Checkpoints kept for resuming, best validation mAP first. The latest is kept too."""
    mlflow_uri: str | None = None
    """MLflow tracking server or store that gets flags, losses and mAP too. Needs the extra `mlflow`."""
    seed: int = 3
    """Seed of sampling, shuffling, flips and initialisation (3: the reference implementation's)."""
    limit: int | None = None
    """Use only the first N images of the split."""
    dry_run: bool = False
    """Print counts, sizes and cost; write nothing."""
    max_failures: float = 0.01
    """Largest share of training images that may be unreadable."""
    allow_open_cluster: bool = False
    """Join a Ray cluster of other machines that asks for no token: anyone who reaches it runs code on it."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Data", common=("split", "val_split", "classes"), more=("max_failures",)),
        Group(
            title="Model",
            common=("preset", "backbone", "weights", "scale"),
            more=("fc_dim", "rois_per_image", "set"),
        ),
        Group(title="Proposals", common=("proposals", "proposal_mode"), more=("max_proposals",)),
        Group(
            title="Length and rate",
            common=("epochs", "iterations", "batch_size", "learning_rate"),
            more=("validate_every", "keep_best"),
        ),
        Group(
            title="Workers",
            common=("num_workers", "gpus_per_worker"),
            more=("min_workers", "allow_open_cluster"),
        ),
        Group(title="Run", common=("dry_run", "limit", "seed"), more=("mlflow_uri",)),
    )

    def __post_init__(self) -> None:
        check_uris(self, "data", "output")
        counts = (
            "num_workers",
            "min_workers",
            "max_proposals",
            "validate_every",
            "keep_best",
            "limit",
        )
        check_above_zero(self, *counts)
        check_not_negative(self, "gpus_per_worker")
        check_numbers(self)
        _require(
            self.fewest_workers <= self.num_workers,
            f"--min-workers {self.min_workers} --num-workers {self.num_workers}",
            "the fewest are more than the most",
            "Give a smaller --min-workers.",
        )
        _check_share(self.max_failures)

    @property
    def fewest_workers(self) -> int:
        """That the run starts with."""
        return self.min_workers or self.num_workers


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
        _require(
            self.score_threshold is None or 0 <= self.score_threshold <= 1,
            f"--score-threshold {self.score_threshold}",
            "is no probability",
            "Give a number from 0 to 1.",
        )
        _check_share(self.max_failures)
        _require(
            0 < self.max_unreachable <= 1,
            f"--max-unreachable {self.max_unreachable}",
            "is a share of the images",
            "Give a number above 0, up to 1.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Flags of `jobs/evaluate.py`."""

    scored: Uri
    """The --output of a scoring run (or its scored/<run_id> folder)."""
    data: Uri
    """Labelled images, as for `jobs/train.py`."""
    split: str = "test"
    """The images to evaluate on."""
    classes: tuple[str, ...] = ()
    """Class names. By default those the detector was trained on."""
    run_id: str | None = None
    """The run to evaluate, where --scored holds several."""
    output: Uri | None = None
    """Where metrics.json and pr_curves.png are written. By default evaluation/<run_id>/ under --scored."""
    limit: int | None = None
    """Evaluate only the first N images of the split."""
    dry_run: bool = False
    """Print counts; write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Data", common=("split", "classes", "limit")),
        Group(title="Run", common=("run_id", "output", "dry_run")),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "limit")


def check_above_zero(config: object, *names: str) -> None:
    """Raises UserError for the first of these fields that is neither None nor above 0."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        above = value is None or 0 < value < math.inf
        _require(above, flag, "must be above 0, and finite", "Give another number.")


def check_uris(config: object, *names: str) -> None:
    """Raises UserError for the first of these fields that names no place: `s3://` would be a local folder."""
    for name in names:
        value = getattr(config, name)
        _require(
            bool(value.strip()) and not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:(/*$|/[^/])", value),
            f"--{name.replace('_', '-')} {value!r}",
            "names no place",
            "Give a path, or a URI such as s3://bucket/prefix.",
        )


def check_not_negative(config: object, *names: str) -> None:
    """Raises UserError for the first of these fields that is below 0."""
    for name in names:
        value = getattr(config, name)
        flag = f"--{name.replace('_', '-')} {value}"
        _require(value is None or value >= 0, flag, "is negative", "Give 0 or more.")


def _check_share(value: float) -> None:
    _require(
        0 <= value <= 1,
        f"--max-failures {value}",
        "is a share of the images",
        "Give a number from 0 to 1.",
    )
