"""Flags of `jobs/train.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pipeline.config.checks import (
    MOST_SECONDS,
    OnBadLabel,
    as_tuple,
    check_above_zero,
    check_folds,
    check_fractions,
    check_gpus_per_worker,
    check_labels,
    check_not_negative,
    check_renames,
    check_samples,
    check_seeds,
    check_share,
    check_uris,
    image_roots,
    label_sets,
    require,
)
from pipeline.config.numbers import AUTO, LENGTHS, check_numbers, read_numbers
from pipeline.config.overrides import ModelOverrides, RPNOverrides, SolverOverrides
from pipeline.config.score import Truncated
from pipeline.runtime.flags import Bands, Group, Groups, Range, Uri

Preset = Literal["paper", "modern"]
BEFORE_RECIPES: Preset = "modern"
"""The preset of a command without --preset, before there were recipes."""
PRESET_PROPOSALS = "selective_search"
"""The proposals with a named preset, if --proposals is not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Flags of `jobs/train.py`."""

    data: tuple[Uri, ...] = ()
    """Folders of labelled images in any layout of docs/labels.md: VOC, LabelImg, COCO, YOLO, CSV. Local paths
    or fsspec URIs. Several folders are joined: classes by name. Required, unless --annotations is given."""
    output: Uri
    """Folder for checkpoint, metrics and curves. To resume, run again with the same folder."""
    annotations: Uri | None = None
    """File or folder of labels that lie apart from their images. The images are in --images-at, else in
    --data."""
    images_at: Uri | None = None
    """Folder of the images, if --data or --annotations holds only their labels."""
    split: str = "train"
    """Split to train on, as named in the data set (VOC: ImageSets/Main/<split>.txt), or the URI of a split
    file, a text file with one image path a line."""
    val_split: str | None = None
    """Split to validate on, or the URI of a split file. Default: the one that belongs to --split: `val`,
    `valid` or `validation` to `train`, `val2017` to `train2017`, `custom_val` to `custom_train`."""
    val_fraction: float | None = None
    """Share of the images of --split to validate on instead, chosen by a hash of --seed and path. Written to
    splits/val.txt in --output."""
    test_fraction: float | None = None
    """Share of the images of --split to leave out of the training for a later test, chosen likewise. Written
    to splits/test.txt in --output."""
    folds: int | None = None
    """Divide the images of --split into this number of folds by a hash of --seed and path, and train on all
    but one of them. Give every training of these folds the same --seed and --data."""
    fold: int | None = None
    """The fold to leave out, from 1 to --folds. Its images are listed in splits/fold.txt in --output:
    `jobs/score_bucket.py` takes the file as --images, and `jobs/evaluate.py` as --split."""
    classes: tuple[str, ...] = ()
    """Class names, in label order. Boxes of other classes are ignored regions. Default: all classes in the
    annotations, sorted."""
    rename: tuple[str, ...] = ()
    """Other names for classes, as OLD=NEW. Two classes may get one name. --classes takes the new names."""
    on_bad_label: OnBadLabel = "refuse"
    """What to do with labels that cannot be right: `refuse` stops and lists them; `skip` makes their boxes
    ignored regions; `clip` cuts boxes at the edge of the image, and skips what cannot be cut."""
    report: Uri | None = None
    """CSV file to write all bad labels to."""
    preset: Preset | None = None
    """`paper`: the numbers of the reference implementation. `modern`: numbers in use today. Default: what no
    flag gives is chosen from the labels and the device, see docs/recipe.md; --dry-run shows the choices."""
    backbone: str | None = None
    """Name of a backbone (`fastrcnn.config.BACKBONES`), e.g. vgg16, mobilenet_v2, tiny; or timm/NAME or
    timm/NAME@REVISION, a network of timm (needs the extra `timm`). Default: that of --weights FILE, else
    resnet50_fpn on a GPU and mobilenet_v2 on CPUs."""
    weights: str = "imagenet"
    """Initial weights: `imagenet` (torchvision's newest), `imagenet_v1` (its first), `coco` (torchvision's
    detector on this backbone), a detector's name such as fasterrcnn_resnet50_fpn_v2, `none` (random), or the
    path or URI of a state_dict of a classifier or detector (.pth, .safetensors), a .caffemodel or a
    checkpoint."""
    proposals: str | None = None
    """`rpn` (trained with the model), `selective_search` (fast implementation), `opencv` (OpenCV's selective
    search, a hundred times slower), `grid` (boxes fitted to the training boxes), or the URI of a proposals
    table. Default: `rpn`; with --preset `selective_search`."""
    proposal_mode: str = "fast"
    """Mode of the proposer. selective_search: `fast`, `small` (also objects below 32 px, at a third of the
    speed) or `exact` (the same method as OpenCV's `fast`). opencv: `fast` or `quality`. grid: `fast` or
    `unfitted`."""
    max_proposals: int = 2000
    """Proposals kept per image, best first (paper, section 4)."""
    scale: int | None = None
    """Length of the shorter image side in the model, in pixels. The longer side is at most 5/3 of it, unless
    --model.max-size is given. Default: chosen from the sizes of the labelled boxes."""
    tile: int | Literal["auto"] | None = None
    """Side of the tiles that larger images are divided into, in pixels, for small objects in large images
    (docs/tiles.md). Training shows windows of this size, and detection looks at each tile and at the whole
    image. `auto`: chosen from the sizes of the labelled boxes, or none if nothing is gained. Default and 0:
    no tiles."""
    tile_overlap: float | None = None
    """Share of --tile that two neighbouring tiles have in common. Objects up to this size are whole in some
    tile. Default: 0.2."""
    whole_share: float | None = None
    """With --tile, share of the training images that are shown whole. Default: 0.2."""
    rois_per_image: int | None = None
    """RoIs sampled per image in a step. Default: 512 on a GPU, and 64 on CPUs or more for full images."""
    fc_dim: int | None = None
    """Width of fc6 and fc7. Default: the backbone's; on CPUs 256 if the backbone has no such layers."""
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
    """GPUs per worker. Default: 1 if the cluster has GPUs or can start nodes with GPUs, else 0."""
    max_workers: int | None = None
    """Upper limit for --num-workers, such as the number of nodes that you want to pay for."""
    wait_for_nodes: float = 900.0
    """Seconds to wait for the first nodes of a cluster that starts nodes. The job then stops with exit code
    1."""
    batch_size: int | None = None
    """Images per step, over all workers. Default: 2 on CPUs, 16 or fewer on a GPU; a preset has its own."""
    iterations: int | None = None
    """Number of steps. Default: what --epochs or --minutes needs, else chosen from the numbers of images
    and classes."""
    epochs: float | None = None
    """Number of passes over the training images, instead of --iterations."""
    minutes: float | None = None
    """Time for the whole training, instead of --iterations. The number of steps that fits is measured before
    the first step; a resumed run keeps it."""
    learning_rate: float | None = None
    """Base learning rate at the given batch size. Default: 0.0002 for AdamW; for SGD in proportion to the
    batch. From 0.001 on, SGD is used unless --solver.optimizer says otherwise."""
    validate_every: int | None = None
    """Steps between validations; each writes a checkpoint. Default: a tenth of the run."""
    patience: int | None = None
    """Stop after this number of validations in a row without a better mAP. Default: take all steps."""
    keep_best: int = 2
    """Number of checkpoints kept for resuming, best validation mAP first. The latest is kept too."""
    mlflow_uri: str | None = None
    """MLflow server or store that also gets flags, losses and mAP. Needs the extra `mlflow`. A password in it
    reaches no file or log."""
    seed: int = 3
    """Seed for sampling, shuffling, flips and initialisation. The reference implementation's is 3."""
    range: Range | None = None
    """Samples that become black and white, for images of more than 8 bits, signed or float samples. Default:
    what each file declares, else the range of the sample type."""
    bands: Bands | None = None
    """Bands that become red, green and blue, counted from 1. Default: the first three."""
    limit: int | None = None
    """Use only the first N images of the split, and of the split to validate on."""
    dry_run: bool = False
    """Print the whole plan with its memory and time, write nothing."""
    max_failures: float = 0.01
    """Maximum share of training images that are unreadable, or whose labels are."""
    truncated: Truncated = "warn"
    """What to do with a JPEG that lacks its end but has at least 95% of its rows: `warn` uses it, `refuse`
    leaves it out. A JPEG with fewer rows is never used."""
    allow_open_cluster: bool = False
    """Allow a Ray cluster on other machines without token authentication. Anyone who can connect to it can
    run code on it."""

    GROUPS: ClassVar[Groups] = (
        Group(
            title="Data",
            common=("data", "split", "val_split", "val_fraction", "classes"),
            more=(
                "test_fraction",
                "folds",
                "fold",
                "rename",
                "on_bad_label",
                "report",
                "annotations",
                "images_at",
                "range",
                "bands",
                "truncated",
                "max_failures",
            ),
        ),
        Group(
            title="Model",
            common=("preset", "backbone", "weights", "scale", "tile"),
            more=("tile_overlap", "whole_share", "fc_dim", "rois_per_image", "set"),
        ),
        Group(title="Proposals", common=("proposals", "proposal_mode"), more=("max_proposals",)),
        Group(
            title="Length and rate",
            common=("epochs", "iterations", "minutes", "batch_size", "learning_rate"),
            more=("validate_every", "patience", "keep_best"),
        ),
        Group(
            title="Workers",
            common=("num_workers", "gpus_per_worker"),
            more=("min_workers", "max_workers", "wait_for_nodes", "allow_open_cluster"),
        ),
        Group(title="Run", common=("dry_run", "limit", "seed"), more=("mlflow_uri",)),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", as_tuple(self.data))
        check_uris(self, "output")
        check_labels(self)
        check_renames(self.rename)
        counts = (
            "num_workers",
            "min_workers",
            "max_workers",
            "max_proposals",
            "validate_every",
            "keep_best",
            "limit",
        )
        check_above_zero(self, *counts)
        check_gpus_per_worker(self.gpus_per_worker)
        check_not_negative(self, "wait_for_nodes", most=MOST_SECONDS)
        check_seeds("--seed", self.seed)
        check_numbers(self)
        self._check_minutes()
        self._check_tiles()
        require(
            self.fewest_workers <= self.most_workers,
            f"--min-workers {self.min_workers} --num-workers {self.num_workers}"
            + ("" if self.max_workers is None else f" --max-workers {self.max_workers}"),
            "the minimum is larger than the number of workers",
            "Give a smaller --min-workers.",
        )
        check_share(self.max_failures)
        check_samples(self)
        check_fractions(self.val_fraction, self.test_fraction, self.val_split)
        check_folds(self.folds, self.fold)

    def _check_minutes(self) -> None:
        if self.minutes is None:
            return
        check_above_zero(self, "minutes")
        numbers = read_numbers(self, strict=False)
        lengths = [numbers.flags[name] for name in LENGTHS if numbers.values.get(name) is not None]
        require(
            not lengths,
            f"--minutes {self.minutes:g} {' '.join(lengths)}",
            "both say how long to train",
            "Give only one of them.",
        )

    def _check_tiles(self) -> None:
        """Raise UserError for flags about tiles that have no effect, or that a preset or pyramid excludes."""
        numbers = read_numbers(self, strict=False)
        auto = self.tile == AUTO
        require(
            not (auto and self.preset),
            f"--tile auto --preset {self.preset}",
            "a preset chooses nothing from the labels",
            "Give --tile with a number of pixels, or leave --preset out.",
        )
        pyramid = numbers.values.get("model.pyramid")
        require(
            not (auto and pyramid),
            f"--tile auto {numbers.flags.get('model.pyramid')}",
            "tiles and a pyramid exclude each other",
            "Give one of them.",
        )
        for name in ("model.tile_overlap", "model.whole_share"):
            require(
                auto or name not in numbers.flags or numbers.values.get("model.tile") is not None,
                numbers.flags.get(name, ""),
                "has an effect with tiles only",
                "Add --tile SIDE or --tile auto, or leave this flag out.",
            )

    @property
    def label_sets(self) -> tuple[tuple[str, str | None], ...]:
        """Where each data set has its labels, and the folder of its images if they lie apart."""
        return label_sets(self)

    @property
    def image_roots(self) -> tuple[str, ...]:
        """The folders below which the images lie: one for each data set."""
        return image_roots(self)

    @property
    def fewest_workers(self) -> int:
        """Number of workers that is enough to start and to continue."""
        return self.min_workers or self.most_workers

    @property
    def most_workers(self) -> int:
        """Number of workers to use when there is room: --num-workers, but at most --max-workers."""
        return min(self.num_workers, self.max_workers or self.num_workers)


def with_named_preset(config: TrainConfig) -> TrainConfig:
    """Name preset and proposals: those of a command that gives none of them, before there were recipes."""
    return replace(
        config,
        preset=config.preset or BEFORE_RECIPES,
        proposals=config.proposals or PRESET_PROPOSALS,
    )
