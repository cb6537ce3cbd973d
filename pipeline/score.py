"""Scores a bucket of images and writes one row for each image as Parquet.

The job has three steps. The plan fixes which images are scored and in which shard each lies. One Ray Data
chain (a CPU stage, then Detector actors) scores the images. Each shard is written once, when it is whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from pipeline import record, storage
from pipeline.config import ScoreConfig
from pipeline.errors import JobError, UserError
from pipeline.record import plan
from pipeline.record.committer import Committer
from pipeline.record.manifest import check_some, write_manifest
from pipeline.record.run_format import begin_run, check_format, warn_of_other_decoders
from pipeline.runtime import cluster
from pipeline.runtime.attempts import Attempts, SharedAttempts
from pipeline.runtime.compiling import check_compiles
from pipeline.scoring import account, dry_run
from pipeline.scoring.account import ScoreSummary
from pipeline.scoring.candidates import ReadSettings, read_tasks, tasks
from pipeline.scoring.detector import DetectorActor as Detector  # tests replace it here
from pipeline.scoring.preflight import (
    Job,
    Resources,
    detector_settings,
    prepare,
    read_settings,
    size_cluster,
)
from pipeline.scoring.progress import ScoreProgress

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 10_000_000
"""Images per execution of Ray Data. Its driver keeps about 200 bytes for each image until the execution ends
(measured with a million images). The Detectors start again for each execution, which takes about 15 s."""
BATCHES_PER_GPU_CALL = 4
"""Batches per call of a GPU actor. With more batches the actor decodes further ahead, but a crash repeats
more work: at most four batches here. On a CPU nothing overlaps, so a call has one batch."""
_MIN_BATCHES_PER_DETECTOR = 4
_MAX_BATCHES_PER_TASK = 64
"""With 8 images a batch and 15 ms to propose, this is about 8 s of work to repeat when a worker dies."""


def run(config: ScoreConfig) -> ScoreSummary:
    """Score every planned image that has no row yet.

    Raises:
        UserError: the command, or something it names, is wrong. The checks come before any worker starts.
        JobError: too many images failed, or a shard does not match the plan. Whole shards stay written.
    """
    job = prepare(config)
    try:
        return _run(job)
    finally:
        job.selection.listed.close()


def _run(job: Job) -> ScoreSummary:
    config = job.config
    if not config.dry_run:
        storage.check_exclusive_create(config.output)
    check_format(config.output, job.run_id)
    cluster.connect(allow_open=config.allow_open_cluster)
    resources = size_cluster(config, cluster.resources(), cluster.node_cpus())
    if config.compile:
        check_compiles("--compile", resources.detector_gpus)
    if config.dry_run:
        return dry_run.estimate(job)
    planned = plan.extend(config.output, job.selection.listed, shard_size=config.shard_size)
    done = record.done_shards(config.output, job.run_id, planned)
    if done:
        _check_shards(config, job, planned, done)
    shards = record.to_do(planned, done, job.only())
    total = sum(map(planned.num_rows, shards))
    logger.info(
        "run %s: %d images planned in %d generation(s), %d shards done, %d images to score",
        job.run_id,
        planned.num_images,
        len(planned.generations),
        len(done),
        total,
    )
    begun = begin_run(config.output, job.run_id, done, account.description(job))
    warn_of_other_decoders(job.run_id, planned, done, begun)
    committer = Committer(
        output=config.output,
        run_id=job.run_id,
        plan=planned,
        to_do=shards,
        columns=begun.columns,
        metadata=begun.metadata(job.checkpoint.classes, job.checkpoint.model_id),
    )
    # A Detector takes seconds to start and holds memory, so few images get few Detectors.
    enough = max(1, total // (_MIN_BATCHES_PER_DETECTOR * config.batch_size))
    resources = replace(resources, workers=min(resources.workers, enough))
    progress = ScoreProgress(config, run_id=job.run_id, total=total, workers=resources.workers)
    started = time.monotonic()
    if total:
        _score(job, planned, shards, resources, committer, progress)
    seconds = time.monotonic() - started if total else 0.0
    manifest = write_manifest(config.output, job.run_id, planned, committer.shards)
    summary = ScoreSummary(
        run_id=job.run_id,
        statuses=manifest.statuses,
        images=manifest.rows,
        scored=total,
        seconds=round(seconds, 3),
        complete=manifest.complete,
        bytes_read=progress.bytes_read,
        detector_busy_share=round(progress.busy_share, 3) if total else None,
    )
    if summary.scored:
        account.write_summary(job, summary, resources)
    account.report(job, summary)
    return summary


def _check_shards(config: ScoreConfig, job: Job, planned: plan.Plan, done: Collection[int]) -> None:
    """Check that the existing shards match the plan, before more images are scored. Raises UserError."""
    try:
        check_some(config.output, job.run_id, planned, done)
    except JobError as error:
        raise UserError(
            f"--output {config.output}",
            str(error),
            "Move this shard away, or give another --output.",
        ) from error


def work(
    planned: plan.Plan, shards: Sequence[int], batch_size: int, resources: Resources
) -> pa.Table:
    """Cut the images of some shards into tasks (schema.TASK).

    A small job gets about 20 tasks for each CPU, so that all CPUs are busy until the end. A large job gets
    larger tasks, because Ray's scheduler starts only some hundred tasks a second.
    """
    total = sum(map(planned.num_rows, shards))
    batches = int(total / (20 * resources.cpus * batch_size))
    return tasks(planned, shards, batch_size * max(1, min(_MAX_BATCHES_PER_TASK, batches)))


def chain(
    work: pa.Table,
    *,
    read_settings: ReadSettings,
    detector: type[Any],
    detector_settings: Mapping[str, Any],
    attempts: Attempts,
    resources: Resources,
    batch_size: int,
) -> Dataset:
    """Turn tasks (schema.TASK) into result rows (schema.RESULT), in any order.

    Args:
        work: the tasks, one a row.
        read_settings: settings of the CPU stage.
        detector: the class of the actors.
        detector_settings: the constructor arguments of each actor.
        attempts: counts of attempts, shared by all workers.
        resources: CPUs and GPUs of both stages.
        batch_size: images per forward pass.
    """
    batches = BATCHES_PER_GPU_CALL if resources.detector_gpus else 1
    return (
        ray.data.from_arrow(work)
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            partial(read_tasks, settings=read_settings, attempts=attempts, batch_size=batch_size),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=resources.read_cpus,
        )
        .map_batches(
            detector,
            fn_constructor_kwargs={**detector_settings, "attempts": attempts},
            batch_size=batches * batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=resources.workers),
            num_cpus=resources.detector_cpus,
            num_gpus=resources.detector_gpus,
        )
    )


def portions(planned: plan.Plan, shards: Sequence[int], most: int) -> Iterator[list[int]]:
    """Cut the list of shards into portions of at most `most` images. A larger shard is a portion alone."""
    portion: list[int] = []
    size = 0
    for shard in shards:
        rows = planned.num_rows(shard)
        if portion and size + rows > most:
            yield portion
            portion, size = [], 0
        portion.append(shard)
        size += rows
    if portion:
        yield portion


def _score(
    job: Job,
    planned: plan.Plan,
    shards: Sequence[int],
    resources: Resources,
    committer: Committer,
    progress: ScoreProgress,
) -> None:
    logger.info(
        "at most %d Detector(s), each with %g CPUs and %g GPUs; the other CPUs read and propose",
        resources.workers,
        resources.detector_cpus,
        resources.detector_gpus,
    )
    cluster.configure_ray_data()
    batch_size = job.config.batch_size
    stages = partial(
        chain,
        read_settings=read_settings(job),
        detector=Detector,
        detector_settings=detector_settings(job)
        | {
            "gpu": resources.detector_gpus > 0,
            "num_threads": max(1, int(resources.detector_cpus)),
            "images_per_pass": batch_size,
        },
        attempts=SharedAttempts(),
        resources=resources,
        batch_size=batch_size,
    )
    try:
        with progress:
            for portion in portions(planned, shards, IMAGES_AT_ONCE):
                results = stages(work(planned, portion, batch_size, resources))
                for block in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                    progress.check(block)
                    committer.add(block)
                    progress.count(block)
    finally:
        committer.flush()
    committer.close()
