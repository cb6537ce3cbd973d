"""Flags of the tools: compress, calibrate, import-weights, draw-scenes, import-proposals,
export-proposals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.config.checks import (
    OnBadLabel,
    check_above_zero,
    check_labels,
    check_not_negative,
    check_renames,
    check_seeds,
    check_share,
)
from pipeline.config.score import ScoreConfig
from pipeline.runtime.flags import Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressConfig:
    """Flags of `jobs/compress.py`."""

    checkpoint: Uri
    """Folder with model.safetensors and config.json, or the --output of a training."""
    output: Uri
    """Folder for the new checkpoint. It must be empty."""
    fc6_rank: int | None = None
    """Singular values of fc6 to keep. Default: a quarter of its width, as the paper (1024 of 4096)."""
    fc7_rank: int | None = None
    """Singular values of fc7 to keep. Default: a sixteenth of its width, as the paper (256 of 4096)."""
    dry_run: bool = False
    """Print the numbers of weights, write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Size", common=("fc6_rank", "fc7_rank")),
        Group(title="Run", common=("dry_run",)),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "fc6_rank", "fc7_rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportWeightsConfig:
    """Flags of `jobs/import_weights.py`."""

    weights: Uri
    """A Faster R-CNN of torchvision: `coco`, a name such as fasterrcnn_resnet50_fpn_v2, or the path or URI of
    its state_dict (.pth, .safetensors)."""
    output: Uri
    """Folder for the checkpoint. It must not hold a checkpoint yet."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the labels, without the background. Default: the 90 COCO categories."""
    detector: str | None = None
    """Name of the detector in torchvision, where several have the same shapes: with
    fasterrcnn_mobilenet_v3_large_320_fpn the scale is 320. Default: by the shapes and the file name."""
    norm_eps: float | None = None
    """The eps of the file's batch norms. Default: 1e-5 if they were trained; if they are frozen, that of
    torchvision's published weights."""
    dry_run: bool = False
    """Read and check the weights, write nothing."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Detector", common=("classes",), more=("detector", "norm_eps")),
        Group(title="Run", common=("dry_run",)),
    )

    def __post_init__(self) -> None:
        check_not_negative(self, "norm_eps", most=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateConfig:
    """Flags of `jobs/calibrate.py`."""

    checkpoint: Uri
    """Folder with model.safetensors and config.json, or the --output of a training."""
    data: Uri = ""
    """Folder of labelled images, as for `jobs/train.py`. The detector must not have been trained on them.
    Required, unless --annotations is given."""
    output: Uri
    """Folder for the calibrated checkpoint. It must not hold a checkpoint yet."""
    annotations: Uri | None = None
    """File or folder of labels that lie apart from their images. The images are in --images-at, else in
    --data."""
    images_at: Uri | None = None
    """Folder of the images, if --data or --annotations holds only their labels."""
    split: str = "val"
    """Split of the images to calibrate on, or the URI of a split file."""
    sample: Uri | None = None
    """The --output of `jobs/sample.py`, if the labels are of its images. Images that were not drawn are left
    out, and each drawn one counts by its probability: the scores then fit all images, not the sample."""
    rename: tuple[str, ...] = ()
    """Other names for classes, as OLD=NEW. The new names are those of the checkpoint."""
    on_bad_label: OnBadLabel = "refuse"
    """What to do with labels that cannot be right: `refuse` stops and lists them; `skip` makes their boxes
    ignored regions; `clip` cuts boxes at the edge of the image, and skips what cannot be cut."""
    proposals: str | None = None
    """URI of a table of proposals for these images, if the detector was trained on a table. Default: the
    proposals that the detector was trained with."""
    one_class_iou: float | None = None
    """An object has one class: a score is at most 1 minus that of a better box of another class at an IoU
    above this; 1 switches it off. Default: as the detector was trained. New trainings choose .6 where no two
    classes share boxes."""
    num_workers: int = 1
    """Number of tasks that detect objects, in parallel."""
    gpus_per_worker: float | None = None
    """GPUs per task. Default: 1 if the cluster has GPUs, else 0."""
    limit: int | None = None
    """Use only the first N images of the split."""
    max_failures: float = 0.01
    """Maximum share of images that are unreadable, or whose labels are."""
    dry_run: bool = False
    """Print the numbers of images and objects, write nothing."""
    allow_open_cluster: bool = False
    """Allow a Ray cluster on other machines without token authentication. Anyone who can connect to it can
    run code on it."""

    GROUPS: ClassVar[Groups] = (
        Group(
            title="Data",
            common=("data", "split"),
            more=(
                "annotations",
                "images_at",
                "sample",
                "rename",
                "on_bad_label",
                "proposals",
                "max_failures",
            ),
        ),
        Group(title="Scores", more=("one_class_iou",)),
        Group(
            title="Workers",
            common=("num_workers", "gpus_per_worker"),
            more=("allow_open_cluster",),
        ),
        Group(title="Run", common=("limit", "dry_run")),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "num_workers", "limit")
        check_not_negative(self, "gpus_per_worker", most=1000)
        check_share(self.max_failures)
        check_above_zero(self, "one_class_iou", most=1)
        check_labels(self)
        check_renames(self.rename)

    @property
    def labels_at(self) -> str:
        """Where the labels are: --annotations, else --data."""
        return self.annotations or self.data

    @property
    def images_apart(self) -> str | None:
        """The folder of the images, if they lie apart from the labels."""
        return self.images_at or (self.data if self.annotations else None)


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
