"""Flags of `jobs/train.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.config.checks import (
    check_above_zero,
    check_not_negative,
    check_seeds,
    check_share,
    check_uris,
    require,
)
from pipeline.config.numbers import check_numbers
from pipeline.config.overrides import ModelOverrides, RPNOverrides, SolverOverrides
from pipeline.runtime.flags import Group, Groups, Uri

Preset = Literal["paper", "modern"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Flags of `jobs/train.py`."""

    data: Uri
    """Folder of labelled images: VOC, LabelImg, COCO or YOLO. A local path or an fsspec URI."""
    output: Uri
    """Folder for checkpoint, metrics and curves. To resume, run again with the same folder."""
    split: str = "train"
    """Split to train on, as named in the data set (VOC: ImageSets/Main/<split>.txt)."""
    val_split: str | None = None
    """Split to validate on. Default: `val`, if the data has it and --split is `train`."""
    classes: tuple[str, ...] = ()
    """Class names, in label order. Default: all classes in the annotations, sorted."""
    preset: Preset = "modern"
    """`paper`: the numbers of the reference implementation. `modern`: numbers in use today."""
    backbone: str | None = None
    """Name of a backbone (`fastrcnn.config.BACKBONES`), e.g. vgg16, mobilenet_v2, tiny. Default: the
    preset's."""
    weights: str = "imagenet"
    """Initial weights: `imagenet` (downloaded by torchvision), `none` (random), or the path or URI of a
    state_dict (.pth, .safetensors), a .caffemodel or a checkpoint."""
    proposals: str = "selective_search"
    """`selective_search` (fast implementation), `opencv` (OpenCV's selective search, a hundred times slower),
    `grid` (boxes fitted to the training boxes), `rpn` (trained with the model), or the URI of a proposals
    table."""
    proposal_mode: str = "fast"
    """Mode of the proposer. selective_search: `fast`, `small` (also objects below 32 px, at a third of the
    speed) or `exact` (the same method as OpenCV's `fast`). opencv: `fast` or `quality`. grid: `fast` or
    `unfitted`."""
    max_proposals: int = 2000
    """Proposals kept per image, best first (paper, section 4)."""
    scale: int | None = None
    """Length of the shorter image side in the model, in pixels. The longer side is at most 5/3 of it, unless
    --model.max-size is given. Default: the preset's (600)."""
    rois_per_image: int | None = None
    """RoIs sampled per image in a step. Default: the preset's."""
    fc_dim: int | None = None
    """Width of fc6 and fc7. Default: the backbone's."""
    model: ModelOverrides = ModelOverrides()
    """All numbers of the model."""
    solver: SolverOverrides = SolverOverrides()
    """All numbers of the training."""
    rpn: RPNOverrides = RPNOverrides()
    """All numbers of the RPN."""
    set: tuple[str, ...] = ()
    """Numbers of model, solver and RPN as NAME=VALUE. momentum=0.8 means --solver.momentum 0.8,
    test_scales=400,560 means --model.test-scales 400 560, rpn_nms=0.7 means --rpn.nms 0.7."""
    num_workers: int = 1
    """Number of Ray Train workers; each is one process."""
    min_workers: int | None = None
    """Minimum workers to continue with when nodes are lost. Default: wait for all. The result is the same
    with any number."""
    gpus_per_worker: float | None = None
    """GPUs per worker. Default: 1 if the cluster has GPUs, else 0."""
    batch_size: int | None = None
    """Images per step, over all workers. The preset's learning rate is scaled with it, unless --learning-rate
    is given. Default: the preset's."""
    iterations: int | None = None
    """Number of SGD steps. Default: the preset's, or what --epochs needs."""
    epochs: float | None = None
    """Number of passes over the training images, instead of --iterations."""
    learning_rate: float | None = None
    """Base learning rate at the given batch size. Default: the preset's."""
    validate_every: int | None = None
    """Steps between validations; each writes a checkpoint. Default: a tenth of the run."""
    keep_best: int = 2
    """Number of checkpoints kept for resuming, best validation mAP first. The latest is kept too."""
    mlflow_uri: str | None = None
    """MLflow server or store that also gets flags, losses and mAP. Needs the extra `mlflow`."""
    seed: int = 3
    """Seed for sampling, shuffling, flips and initialisation. Default: the reference implementation's."""
    limit: int | None = None
    """Use only the first N images of the split."""
    dry_run: bool = False
    """Print counts, sizes and cost, write nothing."""
    max_failures: float = 0.01
    """Maximum share of training images that are unreadable."""
    allow_open_cluster: bool = False
    """Allow a Ray cluster on other machines without token authentication. Anyone who can connect to it can
    run code on it."""

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
        check_not_negative(self, "gpus_per_worker", most=1000)
        check_seeds("--seed", self.seed)
        check_numbers(self)
        require(
            self.fewest_workers <= self.num_workers,
            f"--min-workers {self.min_workers} --num-workers {self.num_workers}",
            "the minimum is larger than the number of workers",
            "Give a smaller --min-workers.",
        )
        check_share(self.max_failures)

    @property
    def fewest_workers(self) -> int:
        """Number of workers that is enough to start and to continue."""
        return self.min_workers or self.num_workers
