"""Estimate the time of a training for a dry run, from some steps on this machine. Writes nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fastrcnn.loss import Objective
from fastrcnn.model import FastRCNN
from fastrcnn.proposals.tiled import propose_on_tiles
from fastrcnn.solver import build_optimizer, freeze_untrained
from fastrcnn.tiles import Tiling
from pipeline import storage
from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.config import TrainConfig
from pipeline.errors import StorageError
from pipeline.images import ImageError, decode
from pipeline.proposals.table import Boxes, ProposalsError, ProposalsTable
from pipeline.training.coverage import log_proposal_coverage
from pipeline.training.data import sample_rules
from pipeline.training.examples import Example, load_batch
from pipeline.training.label_statistics import evenly
from pipeline.training.plan import TrainPlan
from pipeline.training.situation import Device
from pipeline.training.step import StepSettings, train_step

logger = logging.getLogger(__name__)

SAMPLED_IMAGES = 20
"""Training images whose given proposals are compared with the labels."""
TIMED_IMAGES = 2
"""Largest number of images in a timed step."""
ENOUGH_S = 3.0
"""After a step that took longer, no other one is timed."""


def estimate(
    config: TrainConfig,
    plan: TrainPlan,
    model: FastRCNN,
    training: LabelledImages,
    device: Device | None,
) -> None:
    """Log the coverage of given proposals on a sample, and the time that the training will take.

    Args:
        config: the flags, with the proposals that were chosen.
        model: the initial model; its weights are changed.
        device: what the workers compute on; None if it is not known.
    """
    examples = _examples(config, plan, evenly(training.images, SAMPLED_IMAGES))
    if not examples:
        logger.warning("time: not measured, because none of the sampled images could be read")
        return
    if plan.model.rpn is None:
        log_proposal_coverage(examples)
    if device is not None and device.kind == "gpu" and not torch.cuda.is_available():
        logger.info("time: not measured, because the workers have GPUs and this machine has none")
        return
    seconds = _seconds_per_image(config, plan, model, examples)
    _log_time(config, plan, len(training.images), seconds)


def _log_time(config: TrainConfig, plan: TrainPlan, num_images: int, seconds: float) -> None:
    batch = plan.solver.batch_size
    if config.minutes is not None:
        fitting = 60 * config.minutes / (seconds * batch)
        logger.info(
            "time: --minutes %g, about %d steps of %.2f s on this machine, less for start and validations",
            config.minutes,
            fitting,
            seconds * batch,
        )
        return
    steps = plan.solver.num_iterations(num_images)
    minutes = steps * batch * seconds / 60
    logger.info(
        "time: about %s for %d steps of %.2f s in one process of this machine, and some more for start and"
        " validations. --minutes sets a limit",
        f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours",
        steps,
        seconds * batch,
    )


def _examples(
    config: TrainConfig, plan: TrainPlan, images: Sequence[LabelledImage]
) -> list[Example]:
    """Join images with their proposals. Images that cannot be read, or have no row, are left out."""
    proposals = plan.proposals
    table = (
        ProposalsTable.read(str(config.proposals), *config.image_roots)
        if proposals.spec.precomputed
        else None
    )
    examples = []
    for image in images[: TIMED_IMAGES if proposals.spec.learned else None]:
        try:
            examples.append(Example(image, _proposals(config, plan, image, table)))
        except (StorageError, ImageError, ProposalsError) as error:
            logger.warning("%s is left out of the estimate: %s", image.image_uri, error)
    return examples


def _proposals(
    config: TrainConfig,
    plan: TrainPlan,
    image: LabelledImage,
    table: ProposalsTable | None,
) -> Boxes:
    tiling = Tiling.of(plan.model)
    data = storage.read_bytes(image.image_uri)
    pixels = decode(data, rules=sample_rules(config)).pixels
    if table is not None:
        return table.of(image.image_uri, None if tiling else config.max_proposals)
    if plan.proposals.spec.learned:
        return np.zeros((0, 4), np.float32)
    return propose_on_tiles(pixels, plan.proposals, tiling)


def _seconds_per_image(
    config: TrainConfig, plan: TrainPlan, model: FastRCNN, examples: Sequence[Example]
) -> float:
    """Time some steps of few images. The last one counts, because the first is slower."""
    count = min(TIMED_IMAGES, plan.solver.batch_size, len(examples))
    solver = replace(plan.solver, batch_size=count, images_per_pass=None)
    if torch.cuda.is_available() and config.gpus_per_worker != 0:
        model = model.cuda()
    freeze_untrained(model, solver)
    objective, optimizer = Objective(model), build_optimizer(model, solver)
    settings = StepSettings(solver=solver, num_iterations=10**6, seed=config.seed)
    seconds = 0.0
    for step in range(3):
        began = time.monotonic()
        batch = load_batch(
            examples,
            step,
            count,
            config.seed,
            plan.model,
            rules=sample_rules(config),
            max_proposals=plan.proposals.max_boxes,
        )
        train_step(objective, optimizer, batch, step, settings)
        seconds = (time.monotonic() - began) / count
        if seconds * count > ENOUGH_S:
            break
    return seconds
