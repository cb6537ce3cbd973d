"""--dry-run of a scoring job: how much there is to do, and what it would cost. Writes nothing."""

from __future__ import annotations

import logging
import time
from functools import partial

from pipeline import cluster, record
from pipeline.reading import read_images, unplanned
from pipeline.scoring import account, plan
from pipeline.scoring.account import ScoreSummary
from pipeline.scoring.detector import DetectorActor
from pipeline.scoring.preflight import Job, detector_settings, read_settings

logger = logging.getLogger(__name__)

SAMPLE = 8
"""Images scored to know the rate."""


def estimate(job: Job) -> ScoreSummary:
    """Log counts, bytes, time and price of what `pipeline.score.run` would do."""
    config, listed = job.config, job.selection.listed
    planned = plan.read(config.output)
    plan.compare(planned, listed)
    new, new_bytes = listed.new_size()
    done = record.done_shards(config.output, job.run_id, planned)
    shards = record.to_do(planned, done, job.only())
    todo = sum(map(planned.num_rows, shards)) + new
    size = sum(map(partial(_bytes, planned), shards)) + new_bytes
    logger.info(
        "dry run: %d images selected, %d of them new; %d to score, %.1f MB to read",
        *(job.selection.num_images, new, todo, size / 1e6),
    )
    if todo:
        hours = todo * _seconds_an_image(job) / 3600
        cpus = cluster.resources()["CPU"]
        logger.info(
            "about %.2f CPU hours, so %.0f minutes on this cluster's %g CPUs (from the first images, "
            "scored here on one CPU; with GPUs, less)",
            *(hours, 60 * hours / cpus, cpus),
        )
        dollars = account.price(config, hours, 0.0)
        logger.info(
            f"about ${dollars:.2f}"
            if dollars is not None
            else "its price: give --price-per-cpu-hour, in dollars"
        )
    return ScoreSummary(
        run_id=job.run_id, statuses={}, images=0, scored=0, seconds=0.0, complete=todo == 0
    )


def _bytes(planned: plan.Plan, shard: int) -> int:
    """About: a generation's bytes are known, not each shard's."""
    made = planned.generation(shard)
    return made.size_bytes * planned.num_rows(shard) // made.rows


def _seconds_an_image(job: Job) -> float:
    sample = job.selection.listed.first(SAMPLE)
    rows = unplanned(sample)
    detector = DetectorActor(**detector_settings(job), gpu=False, num_threads=1)
    started = time.monotonic()
    detector(read_images(rows, read_settings(job)))
    return (time.monotonic() - started) / int(rows.num_rows)
