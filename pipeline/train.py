"""Fine-tune Fast R-CNN on labelled images. This module runs on the driver; `training.loop` runs on the
workers.

The output folder holds:

<output>/run.json                  the flags that change the result; a command with other flags is refused
<output>/proposals/...             cached proposals, see pipeline.proposals
<output>/checked/...               with --proposals rpn instead: which images can be decoded
<output>/train/...                 Ray Train's checkpoints; a resumed run starts from the latest
<output>/checkpoint/               the best model: model.safetensors, then config.json
<output>/metrics.json, curves.png  losses of every step, metrics of every validation
<output>/tensorboard/...           the same numbers, written while the training runs
<output>/validation/<step>/        precision-recall curves, and pictures with boxes
<output>/result.json               written last: the training is finished
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import ray
import ray.train
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer

from fastrcnn.checkpoint import CONFIG
from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.config.numbers import read_numbers
from pipeline.drawing.curves import loss_curves
from pipeline.errors import JobError, UserError
from pipeline.runtime import cluster
from pipeline.runtime.compiling import check_compiles
from pipeline.storage import checkpoints
from pipeline.training.data import read_data, with_proposals
from pipeline.training.initial_weights import initial_model, measure_deltas
from pipeline.training.loop import TrainJob, train_loop
from pipeline.training.memory import check_fits, step_memory
from pipeline.training.mlflow_run import check_installed
from pipeline.training.plan import TrainPlan, describe, provenance
from pipeline.training.resources import worker_resources
from pipeline.training.same_run import (
    check_doors,
    check_same_run,
    claim_output,
    read_object,
    settled,
)
from pipeline.training.state import STATE

logger = logging.getLogger(__name__)

RUN_NAME = "train"
RESIZE_EVERY_S = 60.0
"""Seconds between checks for room for more workers (Ray's default). After a resize, all workers start from
the last checkpoint."""
MAX_WORKER_LOSSES = 3
"""Number of times that a run may lose workers or nodes. Preemptions do not count (Ray's default)."""
FREE_FLAGS = (
    "num_workers",
    "min_workers",
    "gpus_per_worker",
    "keep_best",
    "mlflow_uri",
    "dry_run",
    "max_failures",
    "allow_open_cluster",
)
"""Flags that may differ when a run is resumed. They do not change the trained model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The result of a finished training, stored in result.json."""

    checkpoint: str
    """URI of the best checkpoint."""
    num_iterations: int
    val_map: float | None = None
    """VOC07 mAP of that checkpoint on the validation split. None without a validation split."""


def run(config: TrainConfig) -> TrainResult | None:
    """Train with these flags, or resume an earlier run with the same output.

    Returns:
        None for a dry run.

    Raises:
        UserError: a flag or the data cannot be used. Raised before a training worker starts.
        JobError: the training failed. The same command resumes it, unless the message says what to change, as
            for a loss that is not finite.
    """
    if config.mlflow_uri:
        check_installed(config.mlflow_uri)
    check_doors(config)
    training, validation = read_data(config)
    flags = settled(config)
    plan = TrainPlan.of(flags, training.classes).fitted(training.images)
    memory = step_memory(plan.model, plan.solver, config.fewest_workers)
    describe(config, plan, training, validation)
    logger.info("one training step needs %s per worker", memory)
    finished = _finished(config)
    if finished and not config.dry_run:
        logger.info("training is already finished; the checkpoint is %s", finished.checkpoint)
        return finished
    # A dry run loads the weights too, so that it reports a file that cannot be read.
    model = initial_model(plan.model, config.weights, config.seed, training.classes)
    if config.dry_run:
        return None
    claim_output(config, FREE_FLAGS)
    cluster.connect(allow_open=config.allow_open_cluster)
    each = worker_resources(config)
    check_fits(memory, config.fewest_workers, each["GPU"])
    if plan.solver.compile:
        flag = read_numbers(flags).flags.get("solver.compile", "--solver.compile True")
        check_compiles(flag, each["GPU"])
    examples, val_examples = with_proposals(config, plan.proposals, training, validation)
    measure_deltas(model, examples)
    num_iterations = plan.solver.num_iterations(len(examples))
    job = TrainJob(
        model=plan.model,
        solver=plan.solver,
        classes=training.classes,
        proposals=plan.proposals,
        num_iterations=num_iterations,
        validate_every=config.validate_every or max(1, num_iterations // 10),
        seed=config.seed,
        provenance=provenance(config, plan, len(examples)),
        output=storage.absolute(config.output),
        mlflow_uri=config.mlflow_uri and os.path.expanduser(config.mlflow_uri),
        examples=ray.put(examples),
        validation=ray.put(val_examples),
        weights=ray.put(model.state_dict()),
    )
    score = "val_map" if val_examples else "iteration"
    return _export(config, _fit(config, job, score, each), job, score)


def _finished(config: TrainConfig) -> TrainResult | None:
    """Read the result of a finished run in this --output; None if there is none.

    Raises:
        UserError: the output holds a run with other flags, or result.json cannot be used.
    """
    check_same_run(config, FREE_FLAGS)
    uri = storage.join(config.output, "result.json")
    if not storage.exists(uri):
        return None
    stored = read_object(uri)
    known = {f.name: stored[f.name] for f in fields(TrainResult) if f.name in stored}
    try:
        # Another version may have written fewer or more fields.
        return TrainResult(**known)
    except TypeError as error:
        raise UserError(
            uri, f"is not the result of a training ({error})", "Give another --output."
        ) from error


def _fit(
    config: TrainConfig, job: TrainJob, score: str, each: dict[str, float]
) -> ray.train.Result:
    """Run the training workers and wait for them.

    Args:
        score: name of the metric that ranks checkpoints; higher is better.
        each: CPUs and GPUs of one worker.

    Raises:
        JobError: the training failed.
    """
    filesystem, path = storage.arrow_filesystem(config.output)
    trainer = TorchTrainer(
        train_loop,  # type: ignore[arg-type]  # the stubs lack the returned value
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            # The stubs describe the ScalingConfig of Ray Train's first API.
            num_workers=_num_workers(config),  # type: ignore[arg-type]
            use_gpu=each["GPU"] > 0,
            resources_per_worker={name: amount for name, amount in each.items() if amount},
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name=RUN_NAME,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.keep_best, checkpoint_score_attribute=score
            ),
            failure_config=FailureConfig(max_failures=MAX_WORKER_LOSSES),
            # At INFO, Ray logs every report in full. The stubs describe the first API's RunConfig.
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise JobError(f"training failed: {error}. Run the same command to resume.") from error
    reason: str | None = getattr(result, "return_value")  # noqa: B009 - the stubs lack it
    if reason is not None:
        raise JobError(reason + _last_good(config, result))
    return result


def _num_workers(config: TrainConfig) -> int | tuple[int, int]:
    """Give Ray the number of workers, or (fewest, most) where --min-workers allows fewer."""
    if config.fewest_workers == config.num_workers:
        return config.num_workers
    return config.fewest_workers, config.num_workers


def _last_good(config: TrainConfig, result: ray.train.Result) -> str:
    """Say where the last checkpoint before the failure is; appended to the error."""
    if result.checkpoint is None:
        return " No checkpoint exists yet."
    uri = storage.join(config.output, RUN_NAME, Path(result.checkpoint.path).name)
    return f" The last good checkpoint is {uri}, which you can give as --weights."


def _export(
    config: TrainConfig, result: ray.train.Result, job: TrainJob, score: str
) -> TrainResult:
    """Copy the best checkpoint to <output>/checkpoint; write metrics.json, curves.png and result.json.

    The weights are copied before config.json: where config.json exists, the checkpoint is complete.
    """
    best = result.get_best_checkpoint(score, "max")
    latest = result.checkpoint
    if best is None or latest is None:
        raise JobError("training ended without a checkpoint. Run the same command to resume.")
    with latest.as_directory() as folder:
        state = json.loads((Path(folder) / STATE).read_text())
    checkpoint = storage.join(config.output, "checkpoint")
    with best.as_directory() as folder:
        checkpoints.put(Path(folder), checkpoint)
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
    score_text = (
        "" if outcome.val_map is None else f", validation mAP (VOC07) {outcome.val_map:.4f}"
    )
    logger.info(
        "best checkpoint: iteration %d, in %s%s", metrics["iteration"], checkpoint, score_text
    )
    return outcome
