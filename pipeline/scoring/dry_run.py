"""--dry-run of a scoring job: estimates the time and the price, and writes nothing."""

from __future__ import annotations

import logging
import time
from functools import partial

import pyarrow.compute as pc

from pipeline import record, storage
from pipeline.proposals.reading import read_images, unplanned
from pipeline.record import plan, retries
from pipeline.record.manifest import current_shards, describe, described_shards
from pipeline.runtime import cluster
from pipeline.scoring import account
from pipeline.scoring.account import ScoreSummary
from pipeline.scoring.detector import DetectorActor
from pipeline.scoring.preflight import Job, detector_settings, read_settings

logger = logging.getLogger(__name__)

SAMPLE = 8
"""The number of images that are scored to measure the rate."""


def estimate(job: Job, planned: plan.Plan) -> ScoreSummary:
    """Log how many images `pipeline.score.run` would score, their bytes, the time and the price.

    Args:
        job: the job.
        planned: the plan, whose images were added to the listed ones (`plan.add_planned_images`).
    """
    config, listed = job.config, job.selection.listed
    num_new, new_bytes = listed.new_size()
    planned, done = current_shards(config.output, job.run_id, planned)
    shards = record.missing_shards(planned, done, job.selected_shards(), job.run_id)
    again = storage.NAMED.empty_table()
    if done and job.retry.statuses:
        described = describe(
            config.output, job.run_id, planned, done, described_shards(config.output, job.run_id)
        )
        again, _ = retries.find(planned, described, listed, job.retry)
    num_to_score = sum(map(planned.num_rows, shards)) + num_new + again.num_rows
    size = sum(map(partial(_bytes, planned), shards)) + new_bytes
    size += pc.sum(again["size_bytes"]).as_py() or 0
    logger.info(
        "dry run: %d images selected, %d of them new, %d to try again (--retry %s); %d to score, %.1f MB to"
        " read",
        job.selection.num_images,
        num_new,
        again.num_rows,
        " ".join(config.retry),
        num_to_score,
        size / 1e6,
    )
    if num_to_score:
        hours = num_to_score * _seconds_an_image(job) / 3600
        cpus = cluster.resources().get("CPU", 0.0)
        logger.info(
            "about %.2f CPU hours%s (measured with the first images on one CPU of this machine; GPUs need"
            " less time)",
            hours,
            f": {60 * hours / cpus:.0f} minutes on this cluster's {cpus:g} CPUs" if cpus else "",
        )
        dollars = account.price(config, hours, 0.0)
        logger.info(
            f"about ${dollars:.2f}"
            if dollars is not None
            else "no price: give --price-per-cpu-hour, in dollars"
        )
    return ScoreSummary(
        run_id=job.run_id, statuses={}, images=0, scored=0, seconds=0.0, complete=num_to_score == 0
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
    results = detector(read_images(rows, read_settings(job)))
    seconds = time.monotonic() - started
    if job.tiling is not None:
        tiles = pc.mean(pc.fill_null(results["num_tiles"], 0)).as_py()
        logger.info(
            "tiles of %d px: %.1f an image, besides the whole image (mean of the first %d images). The costs"
            " include them",
            job.tiling.side,
            tiles,
            rows.num_rows,
        )
    return seconds / int(rows.num_rows)
