"""The report of a scoring job: its summary (runs/<run_id>/summary.json) and its last log lines."""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from pipeline import record, storage
from pipeline.config import ScoreConfig
from pipeline.errors import JobError
from pipeline.record.listed import TRIES
from pipeline.record.manifest import Manifest
from pipeline.scoring.gate import FROM_THE_STORE
from pipeline.scoring.preflight import Job
from pipeline.scoring.progress import ScoreProgress, counts
from pipeline.scoring.resources import Resources

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSummary:
    """The state of a run after a command, and what the command did."""

    run_id: str
    statuses: dict[str, int]
    """The number of images by the status of their newest row, most frequent first."""
    images: int
    """The number of images that have a row, from this command and earlier ones."""
    scored: int
    """The number of images that this command scored."""
    seconds: float
    """Time from the first image to the last shard; 0 if there was nothing to score."""
    complete: bool
    """Whether every planned image has its row."""
    bytes_read: int = 0
    """Encoded bytes of the images that this command scored."""
    detector_busy_share: float | None = None
    """Busy time of the Detectors, as a share of the time that the maximum number of Detectors had."""


def description(job: Job) -> dict[str, object]:
    """Return what config.json says about a run besides its id and format."""
    return {
        "model_id": job.checkpoint.model_id,
        "config": asdict(job.config),
        "proposals": asdict(job.proposals),
        "checkpoint": job.checkpoint.config,
    }


def finish(
    job: Job,
    manifest: Manifest,
    total: int,
    seconds: float,
    progress: ScoreProgress,
    resources: Resources,
) -> ScoreSummary:
    """Write and log the summary of a command that scored `total` images in `seconds`."""
    summary = ScoreSummary(
        run_id=job.run_id,
        statuses=manifest.statuses,
        images=manifest.images,
        scored=total,
        seconds=round(seconds, 3),
        complete=manifest.complete,
        bytes_read=progress.bytes_read,
        detector_busy_share=round(progress.busy_share, 3) if total else None,
    )
    if summary.scored:
        write_summary(job, summary, resources)
    report(job, summary)
    return summary


def write_summary(job: Job, summary: ScoreSummary, resources: Resources) -> None:
    """Write summary.json. It describes the last command that scored an image; the next one replaces it."""
    hours = summary.seconds / 3600
    described = asdict(summary) | {
        "inputs": {"images": job.selection.num_images, "bytes": job.selection.size_bytes},
        "left_out": dict(job.selection.left_out),
        "images_per_second": summary.scored / summary.seconds if summary.seconds else None,
        "cpu_hours": hours * resources.cpus,
        "gpu_hours": hours * resources.gpus,
        "dollars": price(job.config, hours * resources.cpus, hours * resources.gpus),
        "finished_at": datetime.now(UTC).isoformat(),
        "resources": asdict(resources),
        "config": asdict(job.config),
        "versions": {name: version(name) for name in ("ray", "torch", "torchvision", "pyarrow")}
        | {"python": platform.python_version()},
    }
    storage.write_bytes(
        record.run_file_uri(job.config.output, job.run_id, "summary.json"),
        json.dumps(described, indent=1).encode(),
    )


def price(config: ScoreConfig, cpu_hours: float, gpu_hours: float) -> float | None:
    """Return the price in dollars; None if no price is given for what is used."""
    cpu, gpu = config.price_per_cpu_hour, config.price_per_gpu_hour
    if (cpu is None and gpu is None) or (gpu is None and gpu_hours > 0):
        return None
    return cpu_hours * (cpu or 0.0) + gpu_hours * (gpu or 0.0)


def report(job: Job, summary: ScoreSummary) -> None:
    """Log how many rows the run has and how to query them.

    Raises:
        JobError: the share of images whose newest row is not `ok` is larger than --max-failures.
    """
    parquet = storage.join(record.scored_uri(job.config.output, job.run_id), "*.parquet")
    if summary.seconds:
        logger.info(
            "scored %d images in %.1f s: %.1f images/s, Detectors busy %.0f%%",
            summary.scored,
            summary.seconds,
            summary.scored / summary.seconds,
            100 * (summary.detector_busy_share or 0.0),
        )
    else:
        logger.info("nothing to score: every selected image has its row")
    logger.info("%d images in %s: %s", summary.images, parquet, counts(summary.statuses))
    _advise(job, summary)
    logger.info(
        "DuckDB: SELECT d.label, count(*) FROM (SELECT unnest(detections) AS d FROM '%s') GROUP BY 1;",
        parquet,
    )
    failed = summary.images - summary.statuses.get("ok", 0)
    if failed > job.config.max_failures * summary.images:
        raise JobError(
            f"{failed} of {summary.images} images are not ok ({counts(summary.statuses)}), more than "
            f"--max-failures {job.config.max_failures}. Every row is written; see column error for the causes"
        )


def _advise(job: Job, summary: ScoreSummary) -> None:
    """Log which images can be tried again, and how."""
    present = [status for status in (*FROM_THE_STORE, "failed") if summary.statuses.get(status)]
    by_default = [status for status in present if status in job.config.retried]
    others = [status for status in present if status not in by_default]
    if by_default:
        number = sum(summary.statuses[status] for status in by_default)
        logger.info(
            "%d images are %s: the same command tries them again, up to %d times",
            number,
            " or ".join(by_default),
            TRIES,
        )
    if others:
        number = sum(summary.statuses[status] for status in others)
        logger.info(
            "%d images are %s: the same command with --retry %s tries them again",
            number,
            " or ".join(others),
            " ".join(others),
        )
