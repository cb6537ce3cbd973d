"""What an ablation job can be told, and what its trials are: trainings and tests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from pipeline.config import Preset, TrainConfig, check_above_zero
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class AblateConfig:
    """Flags of `jobs/ablate.py`."""

    data: str
    """Labelled images, as for `jobs/train.py`."""
    output: str
    """Where tables, plot and trials go; run again with the same one to continue."""
    comparisons: tuple[str, ...] = ()
    """Which ones; by default all of the paper's (`roi_heads` and `proposers` only where they are named)."""
    split: str = "trainval"
    test_split: str = "test"
    """The images to train and to test on."""
    preset: Preset = "paper"
    backbone: str = "caffenet"
    weights: str = "imagenet"
    proposals: str = "selective_search"
    max_proposals: int = 2000
    scale: int = 600
    """See `jobs/train.py --help` for these."""
    rois_per_image: int = 64
    """RoIs of an image in hierarchical sampling."""
    fc_dim: int | None = None
    epochs: float = 12
    """Passes over the training images, the same for every row."""
    learning_rate: float = 0.001
    set: tuple[str, ...] = ()
    """Other numbers for every row, as for `jobs/train.py`."""
    svd_shares: tuple[float, float] = (1 / 4, 1 / 16)
    """Ranks of fc6 and fc7 after truncation, as shares of fc6's width (the paper's 1024 and 256 of 4096)."""
    seeds: tuple[int, ...] = (3,)
    """Every row is trained and tested once a seed."""
    cpus_per_trial: float = 1
    gpus_per_trial: float = 0
    """What a trial takes of the cluster; as many run at once as there is room for."""
    limit: int | None = None
    """Use only the first N images of each split."""
    dry_run: bool = False
    """Print the rows; train nothing."""
    allow_open_cluster: bool = False
    """Join a Ray cluster of other machines that asks for no token: whoever reaches it runs code on it."""

    def __post_init__(self) -> None:
        check_above_zero(
            self, "max_proposals", "scale", "rois_per_image", "fc_dim", "epochs", "learning_rate",
            "cpus_per_trial", "limit",
        )  # fmt: skip
        if not self.seeds:
            raise UserError("--seeds", "needs one", "Give a number, or leave the flag out.")
        if not all(0 < share <= 1 for share in self.svd_shares):
            raise UserError(
                f"--svd-shares {self.svd_shares}", "are shares of fc6's width", "Give 0 to 1."
            )

    def training(self, training: Training) -> TrainConfig:
        """The flags of `jobs/train.py` that a training means."""
        return TrainConfig(
            data=self.data,
            output=self.output,
            split=self.split,
            preset=self.preset,
            backbone=self.backbone,
            weights=self.weights,
            proposals=training.proposals or self.proposals,
            max_proposals=training.max_proposals or self.max_proposals,
            scale=self.scale,
            rois_per_image=self.rois_per_image,
            fc_dim=self.fc_dim,
            batch_size=2,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            set=(*self.set, *training.settings),
            seed=training.seed,
            limit=self.limit,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """A network trained one way."""

    settings: tuple[str, ...] = ()
    """NAME=VALUE, as for --set."""
    max_proposals: int | None = None
    """Instead of the run's, in training and in tests."""
    proposals: str | None = None
    """Likewise."""
    start: Training | None = None
    """The training whose weights this one starts from."""
    torchvision_heads: bool = False
    """torchvision's RoIHeads on the same backbone, proposals and initial weights."""
    seed: int = 3

    @property
    def name(self) -> str:
        """12 hex digits."""
        values = {k: v for k, v in asdict(self).items() if v is not None}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """How a trained network is tested."""

    __test__ = False  # pytest: no test class

    svd: tuple[float, float] | None = None
    """Shares of fc6's width, see `AblateConfig.svd_shares`."""
    svm: bool = False
    box_regression: bool = True

    @property
    def name(self) -> str:
        parts = [f"svd-{self.svd[0]:g}-{self.svd[1]:g}"] if self.svd else []
        parts += ["svm"] * self.svm + ["no-boxes"] * (not self.box_regression)
        return "+".join(parts) or "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    comparison: str
    setting: str
    training: Training
    test: Test
    paper: str
