"""What a scoring job reports: its summary beside the manifest, and how to query the rows."""

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
from pipeline.scoring.preflight import Job, Resources
from pipeline.scoring.progress import counts

logger = logging.getLogger(__name__)


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
    bytes_read: int = 0
    """Of the images that this command scored, as they lie in the store."""
    detector_busy_share: float | None = None
    """Of the Detectors' time, were there always as many as there may be."""


def description(job: Job) -> dict[str, object]:
    """What config.json says of a run beside its id and format."""
    return {
        "model_id": job.checkpoint.model_id,
        "config": asdict(job.config),
        "proposals": asdict(job.proposals),
        "checkpoint": job.checkpoint.config,
    }


def write_summary(job: Job, summary: ScoreSummary, resources: Resources) -> None:
    """What the last command that scored anything did; replaced by the next."""
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
        record.described_uri(job.config.output, job.run_id, "summary.json"),
        json.dumps(described, indent=1).encode(),
    )


def price(config: ScoreConfig, cpu_hours: float, gpu_hours: float) -> float | None:
    """Dollars; None where what is used has no price."""
    cpu, gpu = config.price_per_cpu_hour, config.price_per_gpu_hour
    if (cpu is None and gpu is None) or (gpu is None and gpu_hours > 0):
        return None
    return cpu_hours * (cpu or 0.0) + gpu_hours * (gpu or 0.0)


def report(job: Job, summary: ScoreSummary) -> None:
    """Log what there is and how to query it.

    Raises:
        JobError: a larger share than --max-failures is not `ok`.
    """
    parquet = storage.join(record.scored_uri(job.config.output, job.run_id), "*.parquet")
    if summary.seconds:
        logger.info(
            "scored %d images in %.1f s: %.1f images/s, Detectors busy %.0f%%",
            *(summary.scored, summary.seconds, summary.scored / summary.seconds),
            100 * (summary.detector_busy_share or 0.0),
        )
    else:
        logger.info("nothing to do: what was asked for has its rows")
    logger.info("%d rows in %s: %s", summary.images, parquet, counts(summary.statuses))
    logger.info(
        "DuckDB: SELECT d.label, count(*) FROM (SELECT unnest(detections) AS d FROM '%s') GROUP BY 1;",
        parquet,
    )
    failed = summary.images - summary.statuses.get("ok", 0)
    if failed > job.config.max_failures * summary.images:
        raise JobError(
            f"{failed} of {summary.images} images are not ok ({counts(summary.statuses)}), more than "
            f"--max-failures {job.config.max_failures}; every row is written, column error says why"
        )
