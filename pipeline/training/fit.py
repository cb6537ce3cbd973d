"""Run the training workers by Ray Train, and wait for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import ray.train
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer

from pipeline import storage
from pipeline.config import TrainConfig
from pipeline.errors import JobError, one_line
from pipeline.runtime import ending
from pipeline.training.job import TrainJob
from pipeline.training.loop import train_loop
from pipeline.training.process_group import NodeTorchConfig

Result = TypeVar("Result")

RUN_NAME = "train"
"""Name of the folder in the output that holds Ray Train's checkpoints."""
RESIZE_EVERY_S = 60.0
"""Seconds between checks for room for more workers (Ray's default). After a resize, all workers start from
the last checkpoint."""
MAX_WORKER_LOSSES = 3
"""Number of times that a run may lose workers or nodes. Preemptions do not count (Ray's default)."""


def fit(
    config: TrainConfig, job: TrainJob, metric: str, per_worker: dict[str, float]
) -> ray.train.Result:
    """Run the training workers and wait for them.

    Args:
        metric: name of the metric that ranks checkpoints; higher is better.
        per_worker: CPUs and GPUs of one worker.

    Raises:
        JobError: the training failed.
    """
    filesystem, path = storage.arrow_filesystem(config.output)
    trainer = TorchTrainer(
        train_loop,  # type: ignore[arg-type]  # the stubs lack the returned value
        train_loop_config={"job": job},
        torch_config=NodeTorchConfig(),
        scaling_config=ScalingConfig(
            # The stubs describe the ScalingConfig of Ray Train's first API.
            num_workers=_num_workers(config),  # type: ignore[arg-type]
            use_gpu=per_worker["GPU"] > 0,
            resources_per_worker={name: amount for name, amount in per_worker.items() if amount},
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name=RUN_NAME,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.keep_best, checkpoint_score_attribute=metric
            ),
            failure_config=FailureConfig(max_failures=MAX_WORKER_LOSSES),
            # At INFO, Ray logs every report in full. The stubs describe the first API's RunConfig.
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
        ),
    )
    try:
        result = _in_thread(trainer.fit) if ending.is_guarded() else trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise JobError(
            f"training failed: {failure_text(error)}. Run the same command to resume"
        ) from error
    reason: str | None = getattr(result, "return_value")  # noqa: B009 - the stubs lack it
    if reason is not None:
        raise JobError(reason + _last_good(config, result))
    return result


def failure_text(error: ray.train.TrainingFailedError) -> str:
    """Say in one line what failed on which worker. The tracebacks stand in the log of the workers."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    ranks: dict[str, list[str]] = {}
    for rank, failure in sorted(failures.items()):
        ranks.setdefault(_exception_of(failure), []).append(str(rank))
    if not ranks:
        return _exception_of(getattr(error, "controller_failure", error))
    return "; ".join(
        f"worker{'s' * (len(of_text) > 1)} {', '.join(of_text)}: {text}"
        for text, of_text in ranks.items()
    )


def _exception_of(failure: BaseException) -> str:
    """Return the exception at the end of a traceback, or else the type and text of `failure`, in one line."""
    lines = str(failure).rstrip().splitlines()
    calls = [number for number, line in enumerate(lines) if line.lstrip().startswith('File "')]
    if not calls:
        return f"{type(failure).__name__}: {one_line(failure)}".rstrip(".")
    rest = lines[calls[-1] + 1 :]
    # The source lines of a call are indented more than the exception.
    depth = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    first = next((n for n, line in enumerate(rest) if line[depth : depth + 1].strip()), 0)
    return one_line(" ".join(rest[first:])).rstrip(".")


def _in_thread(call: Callable[[], Result]) -> Result:
    """Call it in a thread: in the main thread, Ray Train replaces the handler of Ctrl-C by one of its own."""
    with ThreadPoolExecutor(1, thread_name_prefix="fit") as threads:
        return threads.submit(call).result()


def _num_workers(config: TrainConfig) -> int | tuple[int, int]:
    """Give Ray the number of workers, or (fewest, most) where --min-workers allows fewer."""
    if config.fewest_workers == config.most_workers:
        return config.most_workers
    return config.fewest_workers, config.most_workers


def _last_good(config: TrainConfig, result: ray.train.Result) -> str:
    """Say where the last checkpoint before the failure is; appended to the error."""
    if result.checkpoint is None:
        return " No checkpoint exists yet."
    uri = storage.join(config.output, RUN_NAME, Path(result.checkpoint.path).name)
    return f" The last good checkpoint is {uri}, which you can give as --weights."
