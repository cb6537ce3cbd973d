"""Fine-tune Fast R-CNN on labelled images. This module runs on the driver; `training.loop` runs on the
workers.

The output folder holds:

<output>/run.json                  the flags that change the result; a command with other flags is refused
<output>/recipe.json                without --preset: what was chosen from labels and device, with reasons
<output>/length.json                with --minutes: the number of steps that was measured to fit
<output>/splits/<name>.txt         the images of each part, if a split was divided: by --val-fraction, by
                                   --test-fraction, or to calibrate scores
<output>/proposals/...             cached proposals, see pipeline.proposals
<output>/checked/...               with --proposals rpn or a table: which images can be decoded
<output>/train/...                 Ray Train's checkpoints; a resumed run starts from the latest. Also the
                                   lease that keeps a second command out, see pipeline.training.lease
<output>/checkpoint/               the best model: model.safetensors, then config.json
<output>/advice.md                 what limits this model, and what helps
<output>/metrics.json, curves.png  losses of every step, metrics of every validation
<output>/tensorboard/...           the same numbers, written while the training runs
<output>/validation/<step>/        precision-recall curves, and pictures with boxes
<output>/result.json               written last: the training is finished
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import partial

import ray
import ray.train

from fastrcnn.model import FastRCNN
from fastrcnn.tiles import Tiling
from pipeline import storage
from pipeline.annotations import LabelledImages
from pipeline.config import TrainConfig
from pipeline.config.numbers import read_numbers
from pipeline.errors import UserError
from pipeline.runtime import cluster
from pipeline.runtime.compiling import check_compiles
from pipeline.runtime.growing import Growth
from pipeline.runtime.machine import check_machine
from pipeline.storage.archives.listed import listings_of
from pipeline.training.chosen import Recipe, keep, log_tile_advice, recipe_of
from pipeline.training.coverage import log_anchor_coverage, log_proposal_coverage
from pipeline.training.data import join_proposals, read_parts, sample_rules
from pipeline.training.detector_weights import with_detector
from pipeline.training.estimate import estimate
from pipeline.training.finish import HeldOut, finish
from pipeline.training.fit import RUN_NAME, fit
from pipeline.training.held_out import write_parts
from pipeline.training.initial_weights import initial_model, measure_deltas, with_revision
from pipeline.training.job import TrainJob
from pipeline.training.label_statistics import label_statistics
from pipeline.training.lease import TrainingLease
from pipeline.training.memory import StepMemory, check_fits, step_memory
from pipeline.training.mlflow_run import Tracking, check_installed
from pipeline.training.plan import TrainPlan, describe, provenance
from pipeline.training.resources import worker_resources
from pipeline.training.result import TrainResult, export, read_result
from pipeline.training.same_run import check_same_run, claim_output, effective_flags
from pipeline.training.stated_sizes import (
    compare_in_dry_run,
    log_orientations,
    look_at,
    upright_images,
)
from pipeline.training.stored_run import StoredRun
from pipeline.training.time_budget import TimeBudget
from pipeline.training.validation import ranking_metric

logger = logging.getLogger(__name__)

FREE_FLAGS = (
    "num_workers",
    "min_workers",
    "max_workers",
    "wait_for_nodes",
    "gpus_per_worker",
    "keep_best",
    "mlflow_uri",
    "dry_run",
    "max_failures",
    "report",
    "allow_open_cluster",
)
"""Flags that may differ when a run is resumed. They do not change the trained model."""


def run(config: TrainConfig) -> TrainResult | None:
    """Train with these flags, or resume an earlier run with the same output.

    Returns:
        None for a dry run.

    Raises:
        UserError: a flag or the data cannot be used. Raised before a training worker starts.
        JobError: the training failed. The same command resumes it, unless the message says what to change, as
            for a loss that is not finite.
    """
    check_machine()
    tracking = Tracking(config.mlflow_uri) if config.mlflow_uri else None
    if tracking is not None:
        check_installed(tracking)
    began = time.time()
    begun = StoredRun.read(config)
    effective_flags(config, begun)
    check_same_run(config, FREE_FLAGS, begun)  # before labels are read, which may take minutes
    training, validation, parts = read_parts(config, begun)
    read = [part for part in (training, validation) if part is not None]
    looked = [look_at(part.images) for part in read]
    upright = replace(training, images=tuple(upright_images(training.images, looked[0], begun)))
    flags, revision = with_revision(config, begun.revision)
    recipe = recipe_of(flags, upright, looked[0].sizes, begun)
    _check_validation(recipe.flags, validation)
    flags = with_detector(recipe.flags, recipe.numbers, config.proposals is None)
    recipe = replace(recipe, flags=flags)
    plan = TrainPlan.of(flags, training.classes, recipe.numbers)
    sized = recipe.images_to_fit(upright, looked[0].sizes)
    plan = plan.fitted(sized)
    memory = step_memory(plan.model, plan.solver, config.fewest_workers)
    held_out = None if parts is None else parts.calibration
    describe(config, plan, training, validation, held_out)
    recipe.log()
    if config.dry_run:
        log_tile_advice(recipe, plan.model, label_statistics(upright, looked[0].sizes))
    log_anchor_coverage(plan.model, sized)
    logger.info("one training step needs %s per worker", memory)
    log_orientations(looked[0], len(training.images))
    if config.dry_run:
        compare_in_dry_run(config, read, looked)
    finished = read_result(config)
    if finished and not config.dry_run:
        logger.info("training is already finished; the checkpoint is %s", finished.checkpoint)
        return finished
    storage.check_writable(config.output)
    # A dry run loads the weights too, so that it reports a file that cannot be read.
    model = initial_model(plan.model, begun.weights(config.weights), config.seed, training.classes)
    if config.dry_run:
        estimate(recipe.flags, plan, model, training, recipe.device)
        return None
    storage.check_exclusive_create(storage.join(config.output, RUN_NAME))
    claim_output(config, FREE_FLAGS, revision=revision)
    if parts is not None:
        write_parts(config, parts)
    with TrainingLease(config.output):
        # The command that held the lease may have finished the training.
        if (finished := read_result(config)) is not None:
            return finished
        keep(config, recipe)
        ready = _Prepared(
            plan=plan,
            recipe=recipe,
            model=model,
            memory=memory,
            training=training,
            validation=validation,
            held_out=held_out,
            budget=None
            if config.minutes is None
            else TimeBudget(minutes=config.minutes, began=began),
            tracking=tracking,
        )
        return _train(config, ready)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """Everything that a training needs, made and checked before a worker starts."""

    plan: TrainPlan
    recipe: Recipe
    model: FastRCNN
    """The initial weights."""
    memory: StepMemory
    training: LabelledImages
    validation: LabelledImages | None
    held_out: LabelledImages | None
    """Images to calibrate scores on, if there are no validation images."""
    budget: TimeBudget | None
    tracking: Tracking | None


def _train(config: TrainConfig, ready: _Prepared) -> TrainResult:
    """Train, and write the results."""
    joined = cluster.connect(allow_open=config.allow_open_cluster)
    with Growth(joined=joined, wait_s=config.wait_for_nodes) as growth:
        return _train_on(config, ready, worker_resources(config, growth))


def _train_on(config: TrainConfig, ready: _Prepared, per_worker: dict[str, float]) -> TrainResult:
    """Train on workers of these resources, and write the results."""
    plan, recipe, training = ready.plan, ready.recipe, ready.training
    check_fits(ready.memory, config.fewest_workers, per_worker["GPU"])
    if plan.solver.compile:
        flag = read_numbers(recipe.flags).flags.get("solver.compile", "--solver.compile True")
        check_compiles(flag, per_worker["GPU"])
    examples, others = join_proposals(
        recipe.flags,
        plan.proposals,
        training,
        ready.validation or ready.held_out,
        Tiling.of(plan.model),
    )
    val_examples = others if _shows_objects(ready.validation) else []
    if plan.model.rpn is None:
        log_proposal_coverage(examples)
    measure_deltas(ready.model, examples)
    num_iterations = plan.solver.num_iterations(len(examples))
    job = TrainJob(
        model=plan.model,
        solver=plan.solver,
        classes=training.classes,
        proposals=plan.proposals,
        num_iterations=num_iterations,
        validate_every=config.validate_every or max(1, num_iterations // 10),
        seed=config.seed,
        budget=None if ready.budget is None else replace(ready.budget, num_final=len(others)),
        given_validate_every=config.validate_every,
        provenance=provenance(config, plan, len(examples), recipe.stored),
        output=storage.absolute(config.output),
        mlflow=ready.tracking,
        examples=ray.put(examples),
        validation=ray.put(val_examples),
        weights=ray.put(ready.model.state_dict()),
        listings=ray.put(listings_of(e.image.image_uri for e in (*examples, *val_examples))),
        rules=sample_rules(config),
    )
    metric = ranking_metric(plan.solver, val_examples)
    result = fit(config, job, metric, per_worker)
    source = "images held out of the training" if ready.validation is None else "validation images"
    finishing = partial(
        finish,
        examples=examples,
        held_out=HeldOut(examples=others, source=source),
        metric=metric,
        rules=job.rules,
        per_worker=per_worker,
        num_workers=config.most_workers,
    )
    return export(config, result, job, metric, finishing)


def _check_validation(config: TrainConfig, validation: LabelledImages | None) -> None:
    """Check that there is something to validate on, and log a warning if its labels show no object.

    Raises:
        UserError: a flag needs a validation.
    """
    if _shows_objects(validation):
        return
    numbers = read_numbers(config)
    for name in ("solver.patience", "solver.best_by"):
        if numbers.values.get(name) is not None:
            raise UserError(
                numbers.flags[name],
                "no image with a labelled object is validated, so there is no mAP",
                "Give --val-fraction 0.2 or --val-split, or leave this flag out.",
            )
    if validation is not None:
        logger.warning(
            "the %d validation images show no labelled object: there is no mAP, and the last checkpoint is"
            " taken for the best",
            len(validation.images),
        )


def _shows_objects(labelled: LabelledImages | None) -> bool:
    """Return True if average precision can be measured: some object is neither difficult nor a crowd."""
    if labelled is None:
        return False
    return any((~(image.difficult | image.crowd)).any() for image in labelled.images)
