"""Labelled images in, a fine-tuned Fast R-CNN out: the driver's side of training.

<output>/run.json                  the flags that matter, so that another run is not mistaken for this
<output>/proposals/...             see pipeline.proposals; of an RPN's: checked/, which images can be read
<output>/train/...                 Ray Train's checkpoints, for resuming
<output>/checkpoint/               the best: model.safetensors, then config.json
<output>/metrics.json, curves.png  every step's losses, every validation
<output>/tensorboard/...           the same, while it runs; validation/<step>/: curves and pictures with boxes
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
"""Between looks for room for more workers (Ray's default). They start from the last checkpoint."""
MAX_FAILURES = 3
"""Workers or nodes that may be lost in one run; preemptions are not counted (Ray's own default)."""
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
"""May differ between a run and its resumption: they do not change what is learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    checkpoint: str
    """URI of the best checkpoint."""
    num_iterations: int
    val_map: float | None = None
    """VOC07 mAP of that checkpoint on the validation split."""


def run(config: TrainConfig) -> TrainResult | None:
    """Train as `config` says, or go on where an earlier run with the same output stopped.

    Returns:
        None for a dry run.

    Raises:
        UserError: before any worker starts.
        JobError: the run failed; the same command continues it.
    """
    if config.mlflow_uri:
        check_installed(config.mlflow_uri)
    check_doors(config)
    training, validation = read_data(config)
    flags = settled(config)
    plan = TrainPlan.of(flags, training.classes).fitted(training.images)
    memory = step_memory(plan.model, plan.solver, config.fewest_workers)
    describe(config, plan, training, validation)
    logger.info("a worker's step needs %s", memory)
    finished = _finished(config)
    if finished and not config.dry_run:
        logger.info("already trained: %s", finished.checkpoint)
        return finished
    # Unreadable weights are found here.
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
    """The result of a run that ended under this --output. Raises UserError where it is another run's."""
    check_same_run(config, FREE_FLAGS)
    uri = storage.join(config.output, "result.json")
    if not storage.exists(uri):
        return None
    stored = read_object(uri)
    known = {f.name: stored[f.name] for f in fields(TrainResult) if f.name in stored}
    try:
        return TrainResult(**known)  # another version may have written fewer fields, or more
    except TypeError as error:
        raise UserError(uri, "is no result of this job", "Give another --output.") from error


def _fit(
    config: TrainConfig, job: TrainJob, score: str, each: dict[str, float]
) -> ray.train.Result:
    """`each`: what a worker is given."""
    filesystem, path = storage.arrow_filesystem(config.output)
    trainer = TorchTrainer(
        train_loop,  # type: ignore[arg-type]  # the stubs know no returned value
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            # The stubs know only the first API's ScalingConfig.
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
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            # At INFO it repeats every report in full. (The stubs know only the first API's RunConfig.)
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise JobError(f"training stopped: {error}; run the same command to resume") from error
    reason: str | None = getattr(result, "return_value")  # noqa: B009 - the stubs know only the first API
    if reason is not None:
        raise JobError(reason + _last_good(config, result))
    return result


def _num_workers(config: TrainConfig) -> int | tuple[int, int]:
    if config.fewest_workers == config.num_workers:
        return config.num_workers
    return config.fewest_workers, config.num_workers


def _last_good(config: TrainConfig, result: ray.train.Result) -> str:
    if result.checkpoint is None:
        return " There is no checkpoint yet."
    uri = storage.join(config.output, RUN_NAME, Path(result.checkpoint.path).name)
    return f" The last good checkpoint is {uri}, which --weights takes."


def _export(
    config: TrainConfig, result: ray.train.Result, job: TrainJob, score: str
) -> TrainResult:
    """Copy the best checkpoint out, weights before config, and write metrics and curves."""
    best = result.get_best_checkpoint(score, "max")
    latest = result.checkpoint
    if best is None or latest is None:
        raise JobError("training ended without a checkpoint")
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
    reached = "" if outcome.val_map is None else f", validation mAP (VOC07) {outcome.val_map:.4f}"
    logger.info("checkpoint of iteration %d in %s%s", metrics["iteration"], checkpoint, reached)
    return outcome
