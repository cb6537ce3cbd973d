"""Scores a bucket of images and writes one row for each image as Parquet.

The job has three steps. The plan fixes which images are scored and in which shard each lies. One Ray Data
chain (a CPU stage, then Detector actors) scores the images. Each shard is written once, when it is whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from pipeline import record, storage
from pipeline.config import ScoreConfig
from pipeline.record import plan, retries
from pipeline.record.committer import Committer
from pipeline.record.manifest import current_shards, describe, write_manifest
from pipeline.record.newest import count_superseded
from pipeline.record.run_format import begin_run, check_format, warn_of_other_decoders
from pipeline.results.shifts import warn_of_shifts
from pipeline.runtime import cluster
from pipeline.runtime.attempts import Attempts, SharedAttempts
from pipeline.runtime.compiling import check_compiles
from pipeline.runtime.growing import Growth
from pipeline.runtime.machine import check_machine
from pipeline.scoring import account, dry_run
from pipeline.scoring.account import ScoreSummary
from pipeline.scoring.candidates import (
    BATCHES_READ_AT_ONCE,
    BATCHES_READ_FOR_A_GPU,
    ReadSettings,
    cut_tasks,
    read_tasks,
)
from pipeline.scoring.checked import checked_plan, exit_codes
from pipeline.scoring.detector import DetectorActor as Detector  # tests replace it here
from pipeline.scoring.gate import FROM_THE_STORE, Gate
from pipeline.scoring.growth import sized
from pipeline.scoring.preflight import (
    Job,
    detector_settings,
    prepare,
    read_settings,
)
from pipeline.scoring.progress import ScoreProgress
from pipeline.scoring.resources import Resources, size_cluster

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
    check_machine()
    storage.check_writable(config.output)
    job = prepare(config)
    try:
        return _run(job)
    finally:
        job.selection.listed.close()


def _run(job: Job) -> ScoreSummary:
    config = job.config
    check_format(config.output, job.run_id)
    planned, known = checked_plan(job)
    joined = cluster.connect(allow_open=config.allow_open_cluster)
    with Growth(joined=joined, wait_s=config.wait_for_nodes) as growth:
        return _run_on_cluster(job, planned, known, growth)


def _run_on_cluster(
    job: Job, planned: plan.Plan, known: Sequence[record.Shard], growth: Growth
) -> ScoreSummary:
    config = job.config
    # A cluster that starts nodes is divided when the number of images is known: it may need none.
    fixed = None
    if not growth.grows:
        fixed = size_cluster(config, cluster.nodes(), detectors_decode=job.detectors_decode)
    if config.compile and fixed:
        check_compiles("--compile", fixed.detector_gpus)
    if config.dry_run:
        return dry_run.estimate(job, planned)
    planned, done, described = _extend_plan(job, planned, known)
    shards = record.missing_shards(planned, done, job.selected_shards(), job.run_id)
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
    useful_detectors = max(1, total // (_MIN_BATCHES_PER_DETECTOR * config.batch_size))
    useful = useful_detectors if total else 0
    resources = sized(config, fixed, growth, useful, detectors_decode=job.detectors_decode)
    if config.compile and total and not fixed:
        check_compiles("--compile", resources.detector_gpus)
    retried = [shard for shard in shards if planned.generation(shard).run_id]
    progress = ScoreProgress(
        config,
        run_id=job.run_id,
        total=total,
        workers=lambda: min(resources.workers, growth.num_placeable(resources.worker)),
        retried=retried,
        num_retried=sum(map(planned.num_rows, retried)),
    )
    gate = Gate(
        max_unreachable=config.max_unreachable,
        proven=any(set(one.newest) - {*FROM_THE_STORE, "failed"} for one in described),
        retried=retried,
        store_works=partial(retries.store_works, config.output, job.run_id, described),
        replaced=job.selection.listed.replaced,
    )
    started = time.monotonic()
    with exit_codes(scored=total > 0):
        if total:
            _score(job, planned, shards, resources, committer, progress, gate)
        seconds = time.monotonic() - started if total else 0.0
        shards_known = [*described, *committer.shards]
        manifest = write_manifest(
            config.output, job.run_id, planned, shards_known, count=partial(_count, job)
        )
        summary = account.finish(job, manifest, total, seconds, progress, resources)
    if total:
        uris = [record.shard_uri(config.output, job.run_id, one.shard) for one in manifest.shards]
        warn_of_shifts(uris, job.run_id, job.checkpoint.config, job.checkpoint.classes)
    return summary


def _extend_plan(
    job: Job, planned: plan.Plan, known: Sequence[record.Shard]
) -> tuple[plan.Plan, Mapping[int, storage.ObjectInfo], Sequence[record.Shard]]:
    """Plan the images that are new, and those that `--retry` scores again.

    Returns:
        The plan; the finished shards; and the shards with known counts, which are all of them for a retry.
    """
    config, listed = job.config, job.selection.listed
    planned = plan.extend(
        config.output, listed, shard_size=config.shard_size, run_id=job.run_id, known=planned
    )
    planned, done = current_shards(config.output, job.run_id, planned)
    plan.add_planned_images(planned, listed, job.run_id)
    if not job.retry.statuses:
        return planned, done, known
    described = describe(config.output, job.run_id, planned, done, known)
    extended = retries.extend(planned, described, listed, job.retry, shard_size=config.shard_size)
    return extended, done, described


def _count(job: Job, shards: Sequence[record.Shard], planned: plan.Plan) -> Sequence[record.Shard]:
    """Count the rows that newer rows replace, also by images that another driver has planned meanwhile."""
    listed = job.selection.listed
    plan.add_planned_images(planned, listed, job.run_id)
    return count_superseded(shards, listed=listed, plan=planned, run_id=job.run_id)


def make_tasks(
    planned: plan.Plan, shards: Sequence[int], batch_size: int, resources: Resources
) -> pa.Table:
    """Cut the images of some shards into tasks (schema.TASK).

    A small job gets about 20 tasks for each CPU, so that all CPUs are busy until the end. A large job gets
    larger tasks, because Ray's scheduler starts only some hundred tasks a second.
    """
    total = sum(map(planned.num_rows, shards))
    batches = int(total / (20 * resources.cpus * batch_size))
    return cut_tasks(planned, shards, batch_size * max(1, min(_MAX_BATCHES_PER_TASK, batches)))


def chain(
    tasks: pa.Table,
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
        tasks: the tasks, one a row.
        read_settings: settings of the CPU stage.
        detector: the class of the actors.
        detector_settings: the constructor arguments of each actor.
        attempts: counts of attempts, shared by all workers.
        resources: CPUs and GPUs of both stages.
        batch_size: images per forward pass.
    """
    gpu = resources.detector_gpus > 0
    batches = BATCHES_PER_GPU_CALL if gpu else 1
    read = partial(
        read_tasks,
        settings=read_settings,
        attempts=attempts,
        batch_size=batch_size,
        batches_at_once=BATCHES_READ_FOR_A_GPU if gpu else BATCHES_READ_AT_ONCE,
    )
    return (
        ray.data.from_arrow(tasks)
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            read,
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


def portions(planned: plan.Plan, shards: Sequence[int], max_images: int) -> Iterator[list[int]]:
    """Cut the list of shards into portions of at most `max_images` images. A larger shard is one portion."""
    portion: list[int] = []
    size = 0
    for shard in shards:
        rows = planned.num_rows(shard)
        if portion and size + rows > max_images:
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
    gate: Gate,
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
            "num_threads": resources.detector_threads,
            "decode_threads": resources.decode_threads,
            "images_per_pass": batch_size,
        },
        attempts=SharedAttempts(),
        resources=resources,
        batch_size=batch_size,
    )
    try:
        with progress:
            for portion in portions(planned, shards, IMAGES_AT_ONCE):
                results = stages(make_tasks(planned, portion, batch_size, resources))
                for block in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                    progress.check(block)
                    committer.add(gate.sift(block))
                    progress.count(block)
            committer.add(gate.close())
    finally:
        committer.flush()
    committer.close()
