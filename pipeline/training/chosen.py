"""Choose the recipe of a training once, and keep it in its output.

<output>/recipe.json   {"choices": [{"name", "value", "flag", "reason"}, ...], "labels": {...}, ...}

It is written before the first step. A resumed run reads it and chooses nothing again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fastrcnn.config import FastRCNNConfig
from fastrcnn.config.growth import as_tuples
from pipeline import storage
from pipeline.annotations import LabelledImage, LabelledImages
from pipeline.config import TrainConfig
from pipeline.config.numbers import AUTO, read_numbers
from pipeline.errors import UserError
from pipeline.training.device import find_device
from pipeline.training.label_statistics import LabelStatistics, Size, label_statistics
from pipeline.training.memory import GB, step_memory
from pipeline.training.plan import TrainPlan
from pipeline.training.recipe import LARGE_BACKBONE, SMALL_BACKBONE, choose, wanted_sides
from pipeline.training.same_run import effective_flags
from pipeline.training.situation import Choice, Device, Situation
from pipeline.training.stored_run import RECIPE_FILE, StoredRun, read_object
from pipeline.training.tile_choice import choose_tile
from pipeline.training.weights_kind import numbers_of_weights

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.6
"""Largest share of a GPU's memory that the estimate of a step may have: it is a lower bound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What was chosen for a training, and the flags that it leads to."""

    flags: TrainConfig
    """The flags to make the plan from, with the chosen proposals."""
    choices: tuple[Choice, ...] = ()
    """Empty for a named preset."""
    device: Device | None = None
    """None if nothing was chosen now."""
    stored: Mapping[str, Any] | None = None
    """What recipe.json holds. None for a named preset."""

    @property
    def numbers(self) -> dict[str, Any]:
        """The chosen numbers of model, solver and RPN, by name."""
        return {c.name: c.value for c in self.choices if c.name != "proposals"}

    def images_to_fit(
        self, training: LabelledImages, sizes: Mapping[str, Size]
    ) -> tuple[LabelledImage, ...]:
        """Give the images to fit anchors and shapes to. Where no label states a size, it is that of the file;
        a preset does not do that."""
        if not self.choices:
            return tuple(training.images)
        return tuple(replace(i, size=i.size or sizes.get(i.image_uri)) for i in training.images)

    def log(self) -> None:
        """Log each choice with its reason, in one line."""
        if self.choices:
            begin = "chosen from labels and device" if self.device else "chosen earlier, and kept"
            logger.info("%s; another value of a flag overrides the choice:", begin)
        for choice in self.choices:
            logger.info("  %s", choice)


def recipe_of(
    config: TrainConfig,
    training: LabelledImages,
    sizes: Mapping[str, Size],
    begun: StoredRun,
) -> Recipe:
    """Read the recipe of this output, or choose one. A named preset chooses nothing.

    Args:
        sizes: image_uri -> (height, width) of the images whose files were looked at.
        begun: the run that the output holds.

    Raises:
        UserError: recipe.json cannot be read, or the cluster cannot be joined.
    """
    config = effective_flags(config, begun)
    if config.preset is not None:
        return Recipe(flags=config)
    stored = _read(config)
    if stored is not None:
        return _recipe(config, stored, None)
    device = find_device(config)
    situation = _situation(config, training, sizes, device)
    choices = _fit_memory(config, training, device, choose(situation))
    made = {
        "choices": [
            {"name": c.name, "value": c.value, "flag": c.flag, "reason": c.reason} for c in choices
        ],
        "labels": asdict(situation.labels),
        "device": device.kind,
    }
    return _recipe(config, json.loads(json.dumps(made)), device)


def log_tile_advice(recipe: Recipe, model: FastRCNNConfig, labels: LabelStatistics) -> None:
    """Advise tiles where the flags ask for none and objects would be much larger in the model frame."""
    if recipe.flags.tile is not None or model.tile is not None or model.pyramid:
        return
    on_gpu = recipe.device is not None and recipe.device.kind == "gpu"
    wanted = wanted_sides(on_gpu=on_gpu)
    tile = choose_tile(labels, model.scale, model.max_size, wanted)
    if tile.side is not None:
        logger.info("small objects in large images: %s. See docs/tiles.md", tile.sizes)


def keep(config: TrainConfig, recipe: Recipe) -> None:
    """Write recipe.json, unless this output has it. Call it with the lease, before the first step.

    Raises:
        UserError: another command has begun this output with another recipe meanwhile.
    """
    if recipe.stored is None:
        return
    data = json.dumps(recipe.stored, indent=1).encode()
    uri = storage.join(config.output, RECIPE_FILE)
    with storage.driver_errors(config.output):
        ours = storage.create_bytes(uri, data)
    if not ours and read_object(uri).get("choices") != recipe.stored["choices"]:
        raise UserError(
            f"--output {config.output}",
            "was begun by another command while this one started",
            "Run the same command again.",
        )


def _read(config: TrainConfig) -> dict[str, Any] | None:
    uri = storage.join(config.output, RECIPE_FILE)
    return read_object(uri) if storage.exists(uri) else None


def _recipe(config: TrainConfig, stored: Mapping[str, Any], device: Device | None) -> Recipe:
    try:
        choices = tuple(
            Choice(name=c["name"], value=as_tuples(c["value"]), reason=c["reason"])
            for c in stored["choices"]
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            storage.join(config.output, RECIPE_FILE),
            f"is not the recipe of a training ({error!r})",
            "Give another --output.",
        ) from error
    chosen = {c.name: c.value for c in choices}
    flags = replace(config, proposals=config.proposals or chosen.get("proposals"))
    return Recipe(flags=flags, choices=choices, device=device, stored=stored)


def _situation(
    config: TrainConfig, training: LabelledImages, sizes: Mapping[str, Size], device: Device
) -> Situation:
    preferred = [LARGE_BACKBONE if device.kind == "gpu" else SMALL_BACKBONE]
    given = dict(read_numbers(config).values)
    return Situation(
        labels=label_statistics(training, sizes),
        device=device,
        given=given,
        proposals=config.proposals,
        proposal_mode=config.proposal_mode,
        weights_tell=numbers_of_weights(config.weights, preferred, given.get("model.backbone")),
        class_names=training.classes,
        num_workers=config.num_workers,
        minutes=config.minutes,
        auto_tile=config.tile == AUTO,
    )


def _fit_memory(
    config: TrainConfig,
    training: LabelledImages,
    device: Device,
    choices: tuple[Choice, ...],
) -> tuple[Choice, ...]:
    """Let fewer images pass at once if the memory of the GPU is known and may be too small."""
    given = read_numbers(config).values
    if device.memory is None or "solver.images_per_pass" in given:
        return choices
    chosen = {c.name: c.value for c in choices}
    flags = replace(config, proposals=config.proposals or chosen.pop("proposals"))
    plan = TrainPlan.of(flags, training.classes, chosen)
    workers = config.fewest_workers
    whole = step_memory(plan.model, plan.solver, workers).total
    images = plan.solver.batch_size // workers
    while images > 1 and whole > MEMORY_SHARE * device.memory:
        images = -(-images // 2)
        solver = replace(plan.solver, images_per_pass=images)
        total = step_memory(plan.model, solver, workers).total
        if total <= MEMORY_SHARE * device.memory or images == 1:
            reason = (
                f"a GPU has {device.memory / GB:.0f} GB; a step on all images at once needs more than"
                f" {whole / GB:.0f} GB"
            )
            extra = Choice(name="solver.images_per_pass", value=images, reason=reason)
            return (*choices, extra)
    return choices
