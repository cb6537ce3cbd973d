"""Flags of `jobs/train.py`."""

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
from pipeline.config.numbers import check_numbers
from pipeline.config.overrides import ModelOverrides, RPNOverrides, SolverOverrides
from pipeline.runtime.flags import Group, Groups, Uri

Preset = Literal["paper", "modern"]


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
        require(
            self.fewest_workers <= self.num_workers,
            f"--min-workers {self.min_workers} --num-workers {self.num_workers}",
            "the fewest are more than the most",
            "Give a smaller --min-workers.",
        )
        check_share(self.max_failures)

    @property
    def fewest_workers(self) -> int:
        """That the run starts with."""
        return self.min_workers or self.num_workers
