"""--dry-run of a scoring job: how much there is to do, and what it would cost. Writes nothing."""

from __future__ import annotations

import logging
import time

import pyarrow.compute as pc

from pipeline import cluster, plan, record
from pipeline.candidates import read_images
from pipeline.detector import Detector
from pipeline.preflight import Job, detector_settings, read_settings
from pipeline.score_report import ScoreSummary

logger = logging.getLogger(__name__)

SAMPLE = 8
"""Images scored to know the rate."""


def estimate(job: Job) -> ScoreSummary:
    """Log counts, bytes, time and price of what `pipeline.score.run` would do."""
    config, objects = job.config, job.selection.objects
    planned = plan.read(config.output)
    new = plan.missing(planned, objects)
    done = record.done_shards(config.output, job.run_id, planned)
    rows = record.to_do(planned, done, job.only)
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
    sample = job.selection.objects[:SAMPLE]
    detector = Detector(**detector_settings(job), gpu=False, num_threads=1)
    started = time.monotonic()
    detector(read_images(plan.as_rows(sample, range(len(sample))), read_settings(job)))
    return (time.monotonic() - started) / len(sample)
