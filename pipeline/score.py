"""A bucket of images -> Parquet: plan, one chain of a CPU stage and Detector actors, whole shards."""

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

from pipeline import cluster, record, storage
from pipeline.attempts import Attempts, SharedAttempts
from pipeline.compiling import check_compiles
from pipeline.config import ScoreConfig
from pipeline.errors import JobError, UserError
from pipeline.scoring import account, dry_run, plan
from pipeline.scoring.account import ScoreSummary
from pipeline.scoring.candidates import ReadSettings, read_tasks, tasks
from pipeline.scoring.committer import Committer
from pipeline.scoring.detector import DetectorActor as Detector  # tests put a stand-in in its place
from pipeline.scoring.manifest import check_some, write_manifest
from pipeline.scoring.preflight import (
    Job,
    Resources,
    detector_settings,
    prepare,
    read_settings,
    size_cluster,
)
from pipeline.scoring.progress import ScoreProgress
from pipeline.scoring.run_format import begin_run, warn_of_other_decoders

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 10_000_000
"""Of one execution of Ray Data, whose driver keeps some 200 bytes of notes an image until it ends (measured
at a million). The next one's Detectors start anew: 15 s or so."""
PASSES_A_CALL = 4
"""Of a Detector on a GPU: the more, the longer it decodes ahead; with 32 images of 22 KB little is lost with
it. A CPU has nothing to overlap."""
_BATCHES_A_DETECTOR = 4
_MOST_BATCHES = 64
"""Of one task: with 8 images each and 15 ms to propose, some 8 s of work to do again when its worker dies."""


def run(config: ScoreConfig) -> ScoreSummary:
    """Score every planned image that has no row yet.

    Raises:
        UserError: before any worker starts; scored/ is as it was.
        JobError: too many images failed (their rows are written), or a promise did not hold.
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
        "run %s: %d images planned in %d generation(s), %d shards done, %d images to do",
        *(job.run_id, planned.num_images, len(planned.generations), len(done), total),
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
    # Each costs seconds to start, and memory: few images need few.
    few = max(1, total // (_BATCHES_A_DETECTOR * config.batch_size))
    resources = replace(resources, workers=min(resources.workers, few))
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
    """What lies there by a shard's name must be one, before more is scored beside it. Raises UserError."""
    try:
        check_some(config.output, job.run_id, planned, done)
    except JobError as error:
        raise UserError(
            f"--output {config.output}",
            str(error),
            "Move that shard away, or give another --output.",
        ) from error


def work(
    planned: plan.Plan, shards: Sequence[int], batch_size: int, resources: Resources
) -> pa.Table:
    """The images of some shards as tasks (candidates.TASK): enough for all CPUs at the end too, and few
    enough that Ray's scheduler, some hundred tasks a second, is not the bottleneck."""
    total = sum(map(planned.num_rows, shards))
    batches = int(total / (20 * resources.cpus * batch_size))
    return tasks(planned, shards, batch_size * max(1, min(_MOST_BATCHES, batches)))


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
    """Tasks (candidates.TASK) -> result rows (record.RESULT), in whatever order is fastest.

    Args:
        work: what to score.
        read_settings: of the CPU stage.
        detector, detector_settings: the class of the actors, and what each is made with.
        attempts: shared by all workers.
        resources: of both stages.
        batch_size: images a pass through the network.
    """
    passes = PASSES_A_CALL if resources.detector_gpus else 1
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
            batch_size=passes * batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=resources.workers),
            num_cpus=resources.detector_cpus,
            num_gpus=resources.detector_gpus,
        )
    )


def portions(planned: plan.Plan, shards: Sequence[int], most: int) -> Iterator[list[int]]:
    """Cut shards into executions of at most so many images, or of one shard."""
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
        "%d Detector(s) at most, each with %g CPUs and %g GPUs; the other CPUs read and propose",
        *(resources.workers, resources.detector_cpus, resources.detector_gpus),
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
