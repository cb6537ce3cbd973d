"""Flags of the ablation job, and the definition of its trials: Training, Test and Row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from fastrcnn.config.growth import drop_as_before
from pipeline.config import Preset, TrainConfig
from pipeline.config.checks import (
    check_above_zero,
    check_fractions,
    check_not_negative,
    check_seeds,
)
from pipeline.config.numbers import SHORT_FLAGS, configs, read_numbers
from pipeline.config.settings import as_settings, parse_settings
from pipeline.errors import UserError
from pipeline.runtime.flags import Group, Groups, Uri


@dataclass(frozen=True, kw_only=True, slots=True)
class AblateConfig:
    """Flags of `jobs/ablate.py`."""

    data: Uri
    """Labelled images, as for `jobs/train.py`."""
    output: Uri
    """Folder for tables, plot and trials. To continue, run again with the same folder."""
    comparisons: tuple[str, ...] = ()
    """Comparisons to run. Default: all of the paper."""
    split: str = "trainval"
    """Split to train on."""
    test_split: str = "test"
    """Split to test on."""
    val_fraction: float | None = None
    """Share of the images of --split to test on, instead of --test-split. The other images are trained on."""
    preset: Preset = "paper"
    """Preset, as for `jobs/train.py`."""
    backbone: str = "caffenet"
    """Backbone, as for `jobs/train.py`."""
    weights: str = "imagenet"
    """Initial weights, as for `jobs/train.py`."""
    proposals: str = "selective_search"
    """Proposer or URI of a proposals table, as for `jobs/train.py`."""
    max_proposals: int = 2000
    """Proposals kept per image, best first."""
    scale: int = 600
    """Length of the shorter image side in the model, in pixels."""
    rois_per_image: int = 64
    """RoIs per image in hierarchical sampling."""
    fc_dim: int | None = None
    """Width of fc6 and fc7. Default: the backbone's."""
    epochs: float = 12
    """Number of passes over the training images, the same for every row."""
    learning_rate: float = 0.001
    """Base learning rate, the same for every row."""
    set: tuple[str, ...] = ()
    """Other numbers of model and solver as NAME=VALUE, as for `jobs/train.py`, the same for every row."""
    svd_shares: tuple[float, float] = (1 / 4, 1 / 16)
    """Ranks of fc6 and fc7 after truncation, as shares of the width of fc6. Default: the paper's, 1024 and
    256 of 4096."""
    seeds: tuple[int, ...] = (3,)
    """Seeds. Every row is trained and tested once per seed."""
    cpus_per_trial: float = 1
    """CPUs per trial. The cluster runs as many trials at a time as it has CPUs for."""
    gpus_per_trial: float = 0
    """GPUs per trial."""
    limit: int | None = None
    """Use only the first N images of each split."""
    dry_run: bool = False
    """Print the rows, train nothing."""
    allow_open_cluster: bool = False
    """Allow a Ray cluster on other machines without token authentication. Anyone who can connect to it can
    run code on it."""

    GROUPS: ClassVar[Groups] = (
        Group(title="Comparisons", common=("comparisons", "seeds"), more=("svd_shares",)),
        Group(title="Data", common=("split", "test_split", "val_fraction", "limit")),
        Group(
            title="Training",
            common=("preset", "backbone", "weights", "proposals", "scale", "epochs"),
            more=("max_proposals", "rois_per_image", "fc_dim", "learning_rate", "set"),
        ),
        Group(
            title="Run",
            common=("cpus_per_trial", "gpus_per_trial", "dry_run"),
            more=("allow_open_cluster",),
        ),
    )

    def __post_init__(self) -> None:
        check_above_zero(self, "max_proposals", "limit")
        check_above_zero(self, "cpus_per_trial", most=10_000)
        check_not_negative(self, "gpus_per_trial", most=1000)
        check_seeds("--seeds", *self.seeds)
        check_fractions(self.val_fraction, None, None)
        if not self.seeds:
            raise UserError(
                "--seeds", "expected at least one seed", "Give one, or leave the flag out."
            )
        if not all(0 < share <= 1 for share in self.svd_shares):
            raise UserError(
                f"--svd-shares {self.svd_shares}",
                "expected shares of the width of fc6, above 0 and at most 1",
                "Give other numbers.",
            )

        configs(self._training({}), read_numbers(self, strict=False), 1)

    def check_given(self, names: Collection[str]) -> None:
        """Raise UserError if a short flag and --set give a number different values.

        A config cannot tell a flag that was given from its default, but the command line can.

        Args:
            names: the fields whose flags are on the command line.
        """
        settings = {name: (text, value) for text, (name, value) in parse_settings(self.set).items()}
        for short in SHORT_FLAGS:
            text, value = settings.get(SHORT_FLAGS[short], ("", None))
            if short in names and text and value != getattr(self, short):
                raise UserError(
                    f"--{short.replace('_', '-')} {getattr(self, short)} --set {text}",
                    f"{SHORT_FLAGS[short]} has two values",
                    "Give only one of them.",
                )

    def effective_flags(self, by_old_rule: bool) -> AblateConfig:
        """Give the same flags with each number in one place: --set scale=400 becomes --scale 400.

        Args:
            by_old_rule: the output is from before 2026-11-30, when --set changed its number only.

        Raises:
            UserError: a flag and --set have different values.
        """
        given = {name: value for name, value in parse_settings(self.set).values()}
        if by_old_rule:
            longest = (
                {"model.max_size": round(self.scale * 5 / 3)} if "model.scale" in given else {}
            )
            return replace(self, set=as_settings(longest | given))
        values = read_numbers(self).values
        shorts = {
            k: values[SHORT_FLAGS[k]]
            for k in SHORT_FLAGS
            if hasattr(self, k) and SHORT_FLAGS[k] in given
        }
        shorts = {k: v for k, v in shorts.items() if v is not None}
        rest = {k: v for k, v in given.items() if k not in {SHORT_FLAGS[k] for k in shorts}}
        return replace(self, **shorts, set=as_settings(rest))

    def training(self, training: Training) -> TrainConfig:
        """Give the flags of `jobs/train.py` for a training. Its settings win over this job's flags."""
        settings = {name: value for name, value in parse_settings(training.settings).values()}
        config = self._training({**read_numbers(self, strict=False).values, **settings})
        return replace(
            config,
            proposals=training.proposals or self.proposals,
            max_proposals=training.max_proposals or self.max_proposals,
            seed=training.seed,
        )

    def _training(self, numbers: Mapping[str, Any]) -> TrainConfig:
        """Give the flags of `jobs/train.py` with these numbers, by name."""
        numbers = {"solver.batch_size": 2, **numbers}
        shorts: dict[str, Any] = {
            k: numbers[name] for k, name in SHORT_FLAGS.items() if name in numbers
        }
        shorts = {k: v for k, v in shorts.items() if v is not None}
        rest = {k: v for k, v in numbers.items() if k not in {SHORT_FLAGS[k] for k in shorts}}
        return TrainConfig(
            data=(self.data,),
            output=self.output,
            split=self.split,
            preset=self.preset,
            weights=self.weights,
            proposals=self.proposals,
            max_proposals=self.max_proposals,
            set=as_settings(rest),
            limit=self.limit,
            **shorts,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One way to train the network."""

    settings: tuple[str, ...] = ()
    """NAME=VALUE, as for --set."""
    max_proposals: int | None = None
    """Replaces the job's --max-proposals, in training and in tests."""
    proposals: str | None = None
    """Replaces the job's --proposals, in training and in tests."""
    start: Training | None = None
    """The training whose weights are the initial weights. None: --weights."""
    torchvision_heads: bool = False
    """Use torchvision's RoIHeads on the same backbone, proposals and initial weights."""
    seed: int = 3

    @property
    def name(self) -> str:
        """Name of the trial's folder: 12 hex digits of a hash of all fields."""
        values = {k: v for k, v in _hashed(asdict(self)).items() if v is not None}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


FIRST_FIELDS = frozenset(
    ("settings", "max_proposals", "proposals", "start", "torchvision_heads", "seed")
)
"""The fields of `Training` of 2026-11-29. A later field is hashed only if its value is not the default."""


def _hashed(training: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields to hash."""
    defaults = {f.name: f.default for f in fields(Training)}
    values = drop_as_before(training, FIRST_FIELDS, defaults)
    return values | {"start": values["start"] and _hashed(values["start"])}


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One way to test a trained network."""

    __test__ = False  # tell pytest that this is not a test class

    svd: tuple[float, float] | None = None
    """Truncate fc6 and fc7 to these shares of the width of fc6, see `AblateConfig.svd_shares`."""
    svm: bool = False
    """Classify by SVMs instead of softmax."""
    box_regression: bool = True
    """False: use the proposals as boxes."""

    @property
    def name(self) -> str:
        """Name in result.json, for example `svd-0.25-0.0625` or `plain`."""
        parts = [f"svd-{self.svd[0]:g}-{self.svd[1]:g}"] if self.svd else []
        parts += ["svm"] * self.svm + ["no-boxes"] * (not self.box_regression)
        return "+".join(parts) or "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the table."""

    comparison: str
    setting: str
    training: Training
    test: Test
    paper: str
    """Numbers of the paper; may be empty."""
