"""Labelled images in, a fine-tuned Fast R-CNN out: the driver's side of training.

<output>/run.json                  the flags that matter, so that another run is not mistaken for this
<output>/proposals/...             see pipeline.proposals
<output>/train/...                 Ray Train's checkpoints, for resuming
<output>/checkpoint/               the best: model.safetensors, then config.json
<output>/metrics.json, curves.png  every step's losses, every validation
"""

from __future__ import annotations

import json
import logging
import platform
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torchvision
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer

from fastrcnn.checkpoint import CONFIG, WEIGHTS
from fastrcnn.config import FastRCNNConfig, ProposalConfig
from fastrcnn.loss import delta_statistics
from fastrcnn.proposals import PROPOSERS
from fastrcnn.solver import SolverConfig
from pipeline import cluster, storage
from pipeline.annotations import LabelledImages, read_labelled_images, splits
from pipeline.config import TrainConfig
from pipeline.curves import loss_curves
from pipeline.errors import JobError, UserError
from pipeline.examples import Example, target_of
from pipeline.images import IMAGE_SUFFIXES
from pipeline.initial_weights import initial_model
from pipeline.proposals import Boxes, compute_proposals, read_table
from pipeline.train_loop import STATE, TrainJob, train_loop

logger = logging.getLogger(__name__)

RUN_NAME = "train"
MAX_FAILURES = 3
"""Workers or nodes that may be lost in one run; preemptions are not counted (Ray's own default)."""
FREE_FLAGS = ("num_workers", "gpus_per_worker", "dry_run", "max_failures")
"""May differ between a run and its resumption: they do not change what is learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    checkpoint: str
    """URI of the best checkpoint."""
    num_iterations: int
    val_map: float | None
    """VOC07 mAP of that checkpoint on the validation split."""


def run(config: TrainConfig) -> TrainResult | None:
    """Train as `config` says, or go on where an earlier run with the same output stopped.

    Returns:
        None for a dry run.

    Raises:
        UserError: before any worker starts.
        JobError: the run failed; the same command continues it.
    """
    training, validation = _read_data(config)
    plan = _Plan.of(config, training)
    _describe(config, plan, training, validation)
    model = initial_model(plan.model, config.weights, config.seed)
    finished = _claim_output(config)
    if config.dry_run:
        return None
    if finished:
        logger.info("already trained: %s", finished.checkpoint)
        return finished
    cluster.connect()
    examples, val_examples = _with_proposals(config, plan, training, validation)
    if plan.model.delta_std is None:
        statistics = delta_statistics([target_of(e) for e in examples], plan.model.num_classes)
        model.head.delta_mean, model.head.delta_std = statistics
    num_iterations = plan.solver.num_iterations(len(examples))
    job = TrainJob(
        model=plan.model,
        solver=plan.solver,
        classes=training.classes,
        proposals=plan.proposals,
        num_iterations=num_iterations,
        validate_every=config.validate_every or max(1, num_iterations // 10),
        seed=config.seed,
        provenance=_provenance(config, plan, len(examples)),
        examples=ray.put(examples),
        validation=ray.put(val_examples),
        weights=ray.put(model.state_dict()),
    )
    return _export(config, _fit(config, job), job)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The flags, the preset's numbers and the data, made into what workers are told."""

    model: FastRCNNConfig
    solver: SolverConfig
    proposals: ProposalConfig

    @classmethod
    def of(cls, config: TrainConfig, training: LabelledImages) -> _Plan:
        preset = FastRCNNConfig.paper if config.preset == "paper" else FastRCNNConfig.modern
        changes: dict[str, Any] = {}
        if config.backbone:
            changes["backbone"] = config.backbone
        if config.scale:
            changes |= {"scale": config.scale, "max_size": round(config.scale * 5 / 3)}
        if config.rois_per_image:
            changes["rois_per_image"] = config.rois_per_image
        if config.fc_dim:
            changes["fc_dim"] = config.fc_dim
        if config.weights == "none":
            # Nothing to keep: every stage learns, and batch norms must find their statistics.
            changes |= {"frozen_stages": 0, "frozen_norm": False}
        try:
            model = preset(len(training.classes), **changes)
        except ValueError as error:
            raise UserError(f"--backbone {config.backbone}", str(error), "See --help.") from error
        return cls(model=model, solver=_solver(config), proposals=_proposals(config))


def _solver(config: TrainConfig) -> SolverConfig:
    solver = SolverConfig.paper() if config.preset == "paper" else SolverConfig.modern()
    batch_size = config.batch_size or solver.batch_size
    if batch_size % config.num_workers:
        raise UserError(
            f"--num-workers {config.num_workers}",
            f"does not divide the preset's batch of {batch_size} images",
            "Give --batch-size, a multiple of the workers.",
        )
    changes: dict[str, Any] = {"batch_size": batch_size}
    # Linear scaling (Goyal et al. 2017): k times the images, k times the rate.
    changes["learning_rate"] = config.learning_rate or (
        solver.learning_rate * batch_size / solver.batch_size
    )
    if config.iterations or config.epochs:
        changes |= {"iterations": config.iterations, "epochs": config.epochs}
    return replace(solver, **changes)


def _proposals(config: TrainConfig) -> ProposalConfig:
    if config.proposals in PROPOSERS:
        return ProposalConfig(name=config.proposals, max_boxes=config.max_proposals)
    if "/" not in config.proposals and not config.proposals.endswith(".parquet"):
        raise UserError(
            f"--proposals {config.proposals}",
            "is neither a proposer nor a table",
            f"Proposers are {', '.join(PROPOSERS)}; a table is the URI of a Parquet file or folder.",
        )
    return ProposalConfig(name="table", max_boxes=config.max_proposals)


def _read_data(config: TrainConfig) -> tuple[LabelledImages, LabelledImages | None]:
    training = read_labelled_images(
        config.data, config.split, classes=config.classes, limit=config.limit
    )
    val_split = config.val_split
    if val_split is None and "val" in splits(config.data) and config.split == "train":
        val_split = "val"
    validation = None
    if val_split is not None:
        validation = read_labelled_images(config.data, val_split, classes=training.classes)
    for part in filter(None, (training, validation)):
        for problem in part.problems:
            logger.warning("%s", problem)
    return training, validation


def _describe(
    config: TrainConfig, plan: _Plan, training: LabelledImages, validation: LabelledImages | None
) -> None:
    counts = Counter(int(label) for image in training.images for label in image.gt_labels)
    boxes = ", ".join(f"{name} {counts[k]}" for k, name in enumerate(training.classes, start=1))
    num_images = len(training.images)
    iterations = plan.solver.num_iterations(num_images)
    logger.info("%s data: %d training images; boxes: %s", training.layout, num_images, boxes)
    if validation is not None:
        logger.info("%d validation images", len(validation.images))
    logger.info(
        "%s, %s preset, weights %s: %d iterations of %d images (%.1f epochs), rate %g",
        plan.model.backbone,
        config.preset,
        config.weights,
        iterations,
        plan.solver.batch_size,
        iterations * plan.solver.batch_size / num_images,
        plan.solver.learning_rate,
    )


def _claim_output(config: TrainConfig) -> TrainResult | None:
    """Write run.json, or prove that the one there is this run's; a finished run's result, if it is."""
    flags = {k: v for k, v in asdict(config).items() if k not in FREE_FLAGS and k != "output"}
    uri = storage.join(config.output, "run.json")
    if storage.exists(uri):
        there = json.loads(storage.read_bytes(uri))
        flags = json.loads(json.dumps(flags))
        changed = sorted(k for k in flags | there if flags.get(k) != there.get(k))
        if changed:
            listed = ", ".join(f"{k} was {there.get(k)!r}, is {flags.get(k)!r}" for k in changed)
            raise UserError(
                f"--output {config.output}",
                f"holds another run ({listed})",
                "Give another --output, or the same flags to resume that run.",
            )
    elif not config.dry_run:
        storage.write_bytes(uri, json.dumps(flags, indent=2).encode())
    result_uri = storage.join(config.output, "result.json")
    if not storage.exists(result_uri):
        return None
    return TrainResult(**json.loads(storage.read_bytes(result_uri)))


def _with_proposals(
    config: TrainConfig, plan: _Plan, training: LabelledImages, validation: LabelledImages | None
) -> tuple[list[Example], list[Example]]:
    parts = [training.images, validation.images if validation else ()]
    wanted = {image.image_uri for part in parts for image in part}
    if plan.proposals.name == "table":
        boxes = _table_boxes(config, wanted)
    else:
        listed = storage.list_objects(config.data, suffixes=IMAGE_SUFFIXES)
        folder = storage.join(config.output, "proposals")
        infos = [info for info in listed if info.uri in wanted]
        boxes, errors = compute_proposals(infos, plan.proposals, folder)
        _check_failures(config, errors, len(wanted))
    pairs = [
        [Example(image, boxes[image.image_uri]) for image in part if image.image_uri in boxes]
        for part in parts
    ]
    return pairs[0], pairs[1]


def _table_boxes(config: TrainConfig, wanted: set[str]) -> dict[str, Boxes]:
    """Boxes of a given table, whose image_uri is full or relative to --data."""
    root = storage.join(storage.absolute(config.data), "")
    table = read_table(config.proposals)
    boxes = {}
    for uri in sorted(wanted):
        own = table.get(uri, table.get(uri.removeprefix(root)))
        if own is None:
            raise UserError(
                f"--proposals {config.proposals}",
                f"has no row for {uri}",
                "Every training image needs one; an image without proposals has an empty list.",
            )
        boxes[uri] = own[: config.max_proposals]
    return boxes


def _check_failures(config: TrainConfig, errors: dict[str, str], total: int) -> None:
    for uri, error in sorted(errors.items()):
        logger.warning("left out: %s: %s", uri, error)
    if len(errors) > config.max_failures * total:
        uri, error = next(iter(sorted(errors.items())))
        raise JobError(
            f"{len(errors)} of {total} images cannot be used, more than --max-failures"
            f" {config.max_failures:g} allows; first {uri}: {error}"
        )


def _fit(config: TrainConfig, job: TrainJob) -> ray.train.Result:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if resources.get("GPU", 0) >= 1 else 0.0
    if gpus * config.num_workers > resources.get("GPU", 0):
        raise UserError(
            f"--num-workers {config.num_workers}",
            f"need {gpus * config.num_workers:g} GPUs, the cluster has {resources.get('GPU', 0):g}",
            "Give fewer workers or --gpus-per-worker 0.",
        )
    cpus = max(1, int(resources.get("CPU", 1)) // config.num_workers) if gpus == 0 else 1
    filesystem, path = storage.arrow_filesystem(config.output)
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name=RUN_NAME,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=_score_of(job)
            ),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            # At INFO it repeats every report in full. (The stubs know only the first API's RunConfig.)
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
        ),
    )
    try:
        return trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise JobError(f"training stopped: {error}; run the same command to resume") from error


def _score_of(job: TrainJob) -> str:
    return "val_map" if ray.get(job.validation) else "iteration"


def _export(config: TrainConfig, result: ray.train.Result, job: TrainJob) -> TrainResult:
    """Copy the best checkpoint out, weights before config, and write metrics and curves."""
    best = result.get_best_checkpoint(_score_of(job), "max")
    latest = result.checkpoint
    if best is None or latest is None:
        raise JobError("training ended without a checkpoint")
    with latest.as_directory() as folder:
        state = json.loads((Path(folder) / STATE).read_text())
    checkpoint = storage.join(config.output, "checkpoint")
    with best.as_directory() as folder:
        for name in (WEIGHTS, CONFIG):
            storage.write_bytes(storage.join(checkpoint, name), (Path(folder) / name).read_bytes())
        metrics = json.loads((Path(folder) / CONFIG).read_text())["training"]["metrics"]
    curves = {"steps": state["history"], "validations": state["validations"]}
    storage.write_bytes(
        storage.join(config.output, "metrics.json"), json.dumps(curves, indent=1).encode()
    )
    storage.write_bytes(storage.join(config.output, "curves.png"), loss_curves(curves))
    outcome = TrainResult(
        checkpoint=checkpoint,
        num_iterations=job.num_iterations,
        val_map=metrics.get("val_map"),
    )
    storage.write_bytes(
        storage.join(config.output, "result.json"), json.dumps(asdict(outcome)).encode()
    )
    score = "" if outcome.val_map is None else f", validation mAP (VOC07) {outcome.val_map:.4f}"
    logger.info("checkpoint of iteration %d in %s%s", metrics["iteration"], checkpoint, score)
    return outcome


def _provenance(config: TrainConfig, plan: _Plan, num_images: int) -> dict[str, Any]:
    return {
        "flags": asdict(config),
        "solver": asdict(plan.solver),
        "num_images": num_images,
        "versions": {
            "python": platform.python_version(),
            "ray": ray.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    }
