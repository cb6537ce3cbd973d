"""--dry-run of a scoring job: estimates the time and the price, and writes nothing."""

from __future__ import annotations

import logging
import time
from functools import partial

from pipeline import record
from pipeline.proposals.reading import read_images, unplanned
from pipeline.record import plan
from pipeline.runtime import cluster
from pipeline.scoring import account
from pipeline.scoring.account import ScoreSummary
from pipeline.scoring.detector import DetectorActor
from pipeline.scoring.preflight import Job, detector_settings, read_settings

logger = logging.getLogger(__name__)

SAMPLE = 8
"""The number of images that are scored to measure the rate."""


def estimate(job: Job) -> ScoreSummary:
    """Log how many images `pipeline.score.run` would score, their bytes, the time and the price."""
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
        job.selection.num_images,
        new,
        todo,
        size / 1e6,
    )
    if todo:
        hours = todo * _seconds_an_image(job) / 3600
        cpus = cluster.resources()["CPU"]
        logger.info(
            "about %.2f CPU hours: %.0f minutes on this cluster's %g CPUs (measured with the first images "
            "on one CPU of this machine; GPUs need less time)",
            hours,
            60 * hours / cpus,
            cpus,
        )
        dollars = account.price(config, hours, 0.0)
        logger.info(
            f"about ${dollars:.2f}"
            if dollars is not None
            else "no price: give --price-per-cpu-hour, in dollars"
        )
    return ScoreSummary(
        run_id=job.run_id, statuses={}, images=0, scored=0, seconds=0.0, complete=todo == 0
    )


def _bytes(planned: plan.Plan, shard: int) -> int:
    """Estimate the bytes of a shard: only the bytes of its generation are known."""
    generation = planned.generation(shard)
    return generation.size_bytes * planned.num_rows(shard) // generation.rows


def _seconds_an_image(job: Job) -> float:
    sample = job.selection.listed.first(SAMPLE)
    rows = unplanned(sample)
    detector = DetectorActor(**detector_settings(job), gpu=False, num_threads=1)
    started = time.monotonic()
    detector(read_images(rows, read_settings(job)))
    return (time.monotonic() - started) / int(rows.num_rows)
