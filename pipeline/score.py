"""A bucket of images -> Parquet: plan, one chain of a CPU stage and Detector actors, whole shards."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline import cluster, plan, record, storage
from pipeline.attempts import Attempts, SharedAttempts
from pipeline.candidates import ReadSettings, read_images
from pipeline.config import ScoreConfig
from pipeline.detector import Detector
from pipeline.errors import JobError
from pipeline.plan import Plan
from pipeline.preflight import Job, Resources, prepare, size_cluster
from pipeline.schema import scored_metadata

logger = logging.getLogger(__name__)

NO_PROGRESS_TIMEOUT_S = 900.0
"""Ray Data's own is 30 minutes. The longest honest silence is a Detector that downloads its weights and
takes its first batch on one CPU: minutes."""
LOG_EVERY_S = 10.0
DRY_RUN_SAMPLE = 8
"""Images that a dry run scores to know the rate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSummary:
    """What there is now, and what this command did for it."""

    run_id: str
    statuses: dict[str, int]
    """Rows of the run by status, most frequent first."""
    images: int
    """Rows of the run, from this command and earlier ones."""
    scored: int
    """Images that this command scored."""
    seconds: float
    """From the first image to the last shard; 0 when there was nothing to do."""
    complete: bool
    """Every planned image has its row."""


def run(config: ScoreConfig) -> ScoreSummary:
    """Score every planned image that has no row yet.

    Raises:
        UserError: before any worker starts; scored/ is as it was.
        JobError: too many images failed (their rows are written), or a promise did not hold.
    """
    job = prepare(config)
    if not config.dry_run:
        storage.check_exclusive_create(config.output)
    cluster.connect()
    resources = size_cluster(config, cluster.resources())
    if config.dry_run:
        return _estimate(job)
    planned = plan.extend(config.output, job.selection.objects, shard_size=config.shard_size)
    rows = to_do(job, planned)
    _write_config(job)
    committer = record.Committer(
        output=config.output,
        run_id=job.run_id,
        plan=planned,
        to_do=rows,
        metadata=scored_metadata(job.checkpoint.classes, job.checkpoint.model_id),
    )
    started = time.monotonic()
    if rows.num_rows:
        _score(job, rows, resources, committer)
        committer.check_nothing_waits()
    seconds = time.monotonic() - started if rows.num_rows else 0.0
    manifest = record.write_manifest(config.output, job.run_id, planned, committer.shards)
    summary = ScoreSummary(
        run_id=job.run_id,
        statuses=manifest.statuses,
        images=manifest.rows,
        scored=rows.num_rows,
        seconds=round(seconds, 3),
        complete=manifest.complete,
    )
    if summary.scored:
        _write_summary(job, summary, resources)
    _report(job, summary)
    return summary


def chain(
    rows: pa.Table,
    *,
    read_settings: ReadSettings,
    detector: type[Any],
    detector_settings: Mapping[str, Any],
    attempts: Attempts,
    resources: Resources,
    batch_size: int,
) -> Dataset:
    """Planned images (schema PLAN) -> result rows (record.RESULT), in whatever order is fastest.

    Args:
        rows: the images to score.
        read_settings: of the CPU stage.
        detector, detector_settings: the class of the actors, and what each is made with.
        attempts: shared by all workers.
        resources: of both stages.
        batch_size: images a call.
    """
    # A block is a task: several batches where there are many images, or the scheduler is the bottleneck.
    batches = max(1, min(8, rows.num_rows // (40 * batch_size * resources.workers)))
    return (
        ray.data.from_arrow(rows)
        .repartition(target_num_rows_per_block=batch_size * batches)
        .map_batches(
            partial(read_images, settings=read_settings, attempts=attempts),
            batch_size=batch_size,
            batch_format="pyarrow",
            num_cpus=resources.read_cpus,
        )
        .map_batches(
            detector,
            fn_constructor_kwargs={**detector_settings, "attempts": attempts},
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=resources.workers),
            num_cpus=resources.detector_cpus,
            num_gpus=resources.detector_gpus,
        )
    )


def _score(job: Job, rows: pa.Table, resources: Resources, committer: record.Committer) -> None:
    logger.info(
        "%d Detector(s) at most, each with %g CPUs and %g GPUs; the other CPUs read and propose",
        *(resources.workers, resources.detector_cpus, resources.detector_gpus),
    )
    configure_ray_data()
    results = chain(
        rows,
        read_settings=_read_settings(job),
        detector=Detector,
        detector_settings=_detector_settings(job)
        | {
            "gpu": resources.detector_gpus > 0,
            "num_threads": max(1, int(resources.detector_cpus)),
        },
        attempts=SharedAttempts(),
        resources=resources,
        batch_size=job.config.batch_size,
    )
    progress = _progress(rows.num_rows)
    for block in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        committer.add(block)
        progress(block)


def configure_ray_data() -> None:
    """Bound what could hang or loop; and say no more in a job's log than what goes wrong."""
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.max_consecutive_actor_init_deaths = 3
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns of the bars that we turned off.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def _read_settings(job: Job) -> ReadSettings:
    return ReadSettings(
        proposals=job.proposals,
        max_bytes=job.config.max_bytes,
        max_pixels=job.config.max_pixels,
        table=job.table,
        table_root=job.config.images,
    )


def _detector_settings(job: Job) -> dict[str, Any]:
    return {
        "checkpoint": job.checkpoint_uri,
        "run_id": job.run_id,
        "model_id": job.checkpoint.model_id,
        "score_threshold": job.config.score_threshold,
        "max_pixels": job.config.max_pixels,
    }


def to_do(job: Job, planned: Plan) -> pa.Table:
    """The plan's rows of the shards that are not there; with --limit, of those that its images are in."""
    rows = planned.rows
    done = record.done_shards(job.config.output, job.run_id, planned)
    lacking = planned.shard_sizes().keys() - done
    if job.config.limit is not None:
        named = pa.array([item.uri for item in job.selection.objects], pa.string())
        lacking &= set(rows.filter(pc.is_in(rows["image_uri"], named))["shard"].to_pylist())
    rows = rows.filter(pc.is_in(rows["shard"], pa.array(sorted(lacking), pa.int64())))
    logger.info(
        "run %s: %d images planned in %d generation(s), %d shards done, %d images to do",
        *(job.run_id, planned.rows.num_rows, planned.generations, len(done), rows.num_rows),
    )
    return rows


def _progress(total: int) -> Callable[[pa.Table], None]:
    """A function that counts result rows and logs every `LOG_EVERY_S`."""
    statuses: Counter[str] = Counter()
    started = logged = time.monotonic()

    def count(rows: pa.Table) -> None:
        nonlocal logged
        statuses.update(rows["status"].to_pylist())
        now, done = time.monotonic(), statuses.total()
        if now - logged >= LOG_EVERY_S:
            logged = now
            rate = done / (now - started)
            logger.info(
                "%d of %d images, %.1f images/s, %.0f s left; %s",
                *(done, total, rate, (total - done) / rate, _counts(statuses)),
            )

    return count


def _estimate(job: Job) -> ScoreSummary:
    """--dry-run: say how much there is to do and what it would cost. Writes nothing."""
    config, objects = job.config, job.selection.objects
    planned = plan.read(config.output)
    new = plan.missing(planned, objects)
    rows = to_do(job, planned)
    todo = rows.num_rows + len(new)
    size = (pc.sum(rows["size_bytes"]).as_py() or 0) + sum(item.size for item in new)
    logger.info(
        "dry run: %d images selected, %d of them new; %d to score, %.1f MB to read",
        *(len(objects), len(new), todo, size / 1e6),
    )
    if todo:
        hours = todo * _seconds_an_image(job) / 3600
        cpus = cluster.resources()["CPU"]
        logger.info(
            "about %.2f CPU hours, so %.0f minutes on this cluster's %g CPUs (from the first images, "
            "scored here on one CPU; with GPUs, less)",
            *(hours, 60 * hours / cpus, cpus),
        )
        if config.price_per_cpu_hour is not None:
            logger.info("about $%.2f", hours * config.price_per_cpu_hour)
    return ScoreSummary(
        run_id=job.run_id, statuses={}, images=0, scored=0, seconds=0.0, complete=todo == 0
    )


def _seconds_an_image(job: Job) -> float:
    sample = job.selection.objects[:DRY_RUN_SAMPLE]
    detector = Detector(**_detector_settings(job), gpu=False, num_threads=1)
    started = time.monotonic()
    detector(read_images(plan.as_rows(sample, range(len(sample))), _read_settings(job)))
    return (time.monotonic() - started) / len(sample)


def _write_config(job: Job) -> None:
    """What the run was told, once: the first command's word stands."""
    described = {
        "run_id": job.run_id,
        "model_id": job.checkpoint.model_id,
        "config": asdict(job.config),
        "proposals": asdict(job.proposals),
        "checkpoint": job.checkpoint.config,
    }
    storage.create_bytes(_run_uri(job, "config.json"), json.dumps(described, indent=1).encode())


def _write_summary(job: Job, summary: ScoreSummary, resources: Resources) -> None:
    described = asdict(summary) | {
        "images_per_second": summary.scored / summary.seconds if summary.seconds else None,
        "finished_at": datetime.now(UTC).isoformat(),
        "resources": asdict(resources),
        "versions": {name: version(name) for name in ("ray", "torch", "torchvision", "pyarrow")}
        | {"python": platform.python_version()},
    }
    storage.write_bytes(_run_uri(job, "summary.json"), json.dumps(described, indent=1).encode())


def _run_uri(job: Job, name: str) -> str:
    return storage.join(job.config.output, "runs", job.run_id, name)


def _report(job: Job, summary: ScoreSummary) -> None:
    parquet = storage.join(record.scored_uri(job.config.output, job.run_id), "*.parquet")
    if summary.seconds:
        logger.info(
            "scored %d images in %.1f s: %.1f images/s",
            *(summary.scored, summary.seconds, summary.scored / summary.seconds),
        )
    else:
        logger.info("nothing to do: every image of the plan has its row")
    logger.info("%d rows in %s: %s", summary.images, parquet, _counts(summary.statuses))
    logger.info(
        "DuckDB: SELECT d.label, count(*) FROM (SELECT unnest(detections) AS d FROM '%s') GROUP BY 1;",
        parquet,
    )
    failed = summary.images - summary.statuses.get("ok", 0)
    if failed > job.config.max_failures * summary.images:
        raise JobError(
            f"{failed} of {summary.images} images are not ok ({_counts(summary.statuses)}), more than "
            f"--max-failures {job.config.max_failures}; every row is written, column error says why"
        )


def _counts(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{status} {count}" for status, count in statuses.items())
