"""What a scoring job says of itself: progress in the log, config and summary beside the manifest."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import pyarrow as pa

from pipeline import record, storage
from pipeline.errors import JobError
from pipeline.preflight import Job, Resources

logger = logging.getLogger(__name__)

LOG_EVERY_S = 10.0


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


def progress(total: int) -> Callable[[pa.Table], None]:
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


def write_config(job: Job) -> None:
    """What the run was told, once: the first command's word stands."""
    described = {
        "run_id": job.run_id,
        "model_id": job.checkpoint.model_id,
        "config": asdict(job.config),
        "proposals": asdict(job.proposals),
        "checkpoint": job.checkpoint.config,
    }
    storage.create_bytes(_run_uri(job, "config.json"), json.dumps(described, indent=1).encode())


def write_summary(job: Job, summary: ScoreSummary, resources: Resources) -> None:
    """What the last command that scored anything did; replaced by the next."""
    described = asdict(summary) | {
        "images_per_second": summary.scored / summary.seconds if summary.seconds else None,
        "finished_at": datetime.now(UTC).isoformat(),
        "resources": asdict(resources),
        "versions": {name: version(name) for name in ("ray", "torch", "torchvision", "pyarrow")}
        | {"python": platform.python_version()},
    }
    storage.write_bytes(_run_uri(job, "summary.json"), json.dumps(described, indent=1).encode())


def report(job: Job, summary: ScoreSummary) -> None:
    """Log what there is and how to query it.

    Raises:
        JobError: a larger share than --max-failures is not `ok`.
    """
    parquet = storage.join(record.scored_uri(job.config.output, job.run_id), "*.parquet")
    if summary.seconds:
        logger.info(
            "scored %d images in %.1f s: %.1f images/s",
            *(summary.scored, summary.seconds, summary.scored / summary.seconds),
        )
    else:
        logger.info("nothing to do: what was asked for has its rows")
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


def _run_uri(job: Job, name: str) -> str:
    return storage.join(job.config.output, "runs", job.run_id, name)
