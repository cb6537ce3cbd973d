"""Make the configs of a training from its flags, its preset and its data."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
import torch
import torchvision

from fastrcnn.config import PROPOSER_SPECS, TABLE, FastRCNNConfig, ProposalConfig, SolverConfig
from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.config import TrainConfig
from pipeline.config.numbers import as_flags, configs, read_numbers
from pipeline.config.train import PRESET_PROPOSALS
from pipeline.errors import UserError
from pipeline.proposals.table import find_table
from pipeline.training.data_table import describe_data
from pipeline.training.learned_proposals import fit_anchors_to, fit_grid_to, rpn_of
from pipeline.training.mlflow_run import Tracking

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """The configs of one training, made from its flags, its preset and its data."""

    model: FastRCNNConfig
    solver: SolverConfig
    proposals: ProposalConfig

    @classmethod
    def of(
        cls, config: TrainConfig, classes: Sequence[str], chosen: Mapping[str, Any] | None = None
    ) -> TrainPlan:
        """Make the configs before anything is fitted to the data.

        Args:
            chosen: numbers by name, for those that no flag gives; the preset gives the others.

        Raises:
            UserError: flags exclude each other, or a number is out of range.
        """
        numbers = read_numbers(config).over(chosen or {})
        proposals = _proposals(config)
        model, solver = configs(config, numbers, len(classes))
        model = rpn_of(model, solver, proposals, numbers)
        return cls(model=model, solver=solver, proposals=proposals)

    def fitted(self, images: Sequence[LabelledImage]) -> TrainPlan:
        """Fit the anchors of an RPN, or the shapes of a grid, to the boxes of these images."""
        return replace(
            self,
            model=fit_anchors_to(self.model, images),
            proposals=fit_grid_to(self.proposals, self.model, images),
        )


def _proposals(config: TrainConfig) -> ProposalConfig:
    """Make the config of the proposer. Raise UserError if it has no such mode."""
    given = config.proposals or PRESET_PROPOSALS
    name = given if find_table(given) is None else TABLE
    modes = PROPOSER_SPECS[name].modes
    if config.proposal_mode not in modes:
        raise UserError(
            f"--proposal-mode {config.proposal_mode}",
            f"--proposals {name} has no such mode",
            f"Give one of {', '.join(modes)}.",
        )
    return ProposalConfig(name=name, mode=config.proposal_mode, max_boxes=config.max_proposals)


def describe(
    config: TrainConfig,
    plan: TrainPlan,
    training: LabelledImages,
    validation: LabelledImages | None,
    held_out: LabelledImages | None,
) -> None:
    """Log data, model and length of the training, so that a person can check them before a long run."""
    num_images = len(training.images)
    logger.info("data\n%s", "\n".join(describe_data(training, validation, held_out)))
    logger.info(
        "%s, %s, weights %s: %s of %d images%s, learning rate %g",
        plan.model.backbone,
        f"{config.preset} preset" if config.preset else "recipe from the data",
        config.weights,
        *_length(config, plan, num_images),
        plan.solver.learning_rate,
    )
    rpn = plan.model.rpn
    if rpn is not None and rpn.sides:
        logger.info(
            "anchors: sides %s px in the model frame, height / width %s", rpn.sides, rpn.ratios
        )
    if plan.proposals.shapes is not None:
        logger.info("grid: shapes %s as shares of the shorter image side", plan.proposals.shapes)


def _length(config: TrainConfig, plan: TrainPlan, num_images: int) -> tuple[str, int, str]:
    """Give three texts of a log line: number of steps, images of a step, and passes over the images."""
    batch = plan.solver.batch_size
    if config.minutes is not None:
        return f"as many iterations as --minutes {config.minutes:g} allows,", batch, " each"
    iterations = plan.solver.num_iterations(num_images)
    return f"{iterations} iterations", batch, f" ({iterations * batch / num_images:.1f} epochs)"


def provenance(
    config: TrainConfig,
    plan: TrainPlan,
    num_images: int,
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe how the checkpoint was made: the entry `training` of its config.json, without passwords.

    Args:
        recipe: what recipe.json holds; None if a preset was named.
    """
    flags = as_flags(config)
    if config.mlflow_uri:
        flags["mlflow_uri"] = Tracking(config.mlflow_uri).shown
    return {
        "flags": flags,
        "solver": asdict(plan.solver),
        "num_images": num_images,
        **({} if recipe is None else {"recipe": recipe}),
        "versions": {
            "python": platform.python_version(),
            "ray": ray.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    }
