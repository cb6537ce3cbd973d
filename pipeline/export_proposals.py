"""Writes the proposals of an RPN as a table, which `--proposals URI` reads for other detectors.

    images -> read_images (CPU) -> Proposer (GPU, if the cluster has one) -> <output>/part-<uuid>.parquet

An image that cannot be read or decoded has no row. The same command, run again, tries only these images.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy

from pipeline import storage
from pipeline.config.tools import ExportProposalsConfig
from pipeline.detector import Detector
from pipeline.errors import UserError
from pipeline.proposals.candidate import decode_candidates
from pipeline.proposals.reading import check_failures, read_images, unplanned
from pipeline.proposals.table import boxes_array, write_part
from pipeline.runtime import cluster
from pipeline.runtime.attempts import SharedAttempts
from pipeline.runtime.machine import check_machine
from pipeline.runtime.progress import Progress
from pipeline.schema import PLAN, PROPOSALS_EXPORT, image_keys
from pipeline.scoring.preflight import Job, prepare, read_settings
from pipeline.scoring.resources import Resources, size_cluster

logger = logging.getLogger(__name__)

ROWS_PER_PART = 512
"""With 1000 boxes an image, a part is 8 MB. If the driver dies, at most one part must be made again."""


def run(config: ExportProposalsConfig) -> int:
    """Write the proposals of the images that have no row yet.

    Returns:
        The number of images whose proposals were written.

    Raises:
        UserError: there are no such images, the checkpoint has no RPN, or the output holds the proposals of
            another detector.
        JobError: more images than --max-failures allows could not be read.
    """
    check_machine()
    storage.check_writable(config.output)
    job = prepare(config.scoring())
    try:
        return _run(config, job)
    finally:
        job.selection.listed.close()


def _run(config: ExportProposalsConfig, job: Job) -> int:
    if job.checkpoint.model.rpn is None:
        raise UserError(
            f"--checkpoint {config.checkpoint}",
            f"has no RPN: it was trained on {job.checkpoint.proposals.name}",
            "Give a checkpoint that jobs/train.py --proposals rpn has trained.",
        )
    done = _done_images(config.output, job.checkpoint.model_id)
    missing = _missing_images(job, done)
    logger.info("proposals: %d images to do, %d images done", missing.num_rows, len(done))
    if config.dry_run or not missing.num_rows:
        return 0
    cluster.connect(allow_open=config.allow_open_cluster)
    cluster.configure_ray_data()
    resources = size_cluster(job.config, cluster.nodes())
    settings = _settings(job)
    written, errors = 0, dict[str, str]()
    with Progress("proposals", missing.num_rows, "images") as progress:
        for rows in _propose(missing, job, resources):
            proposed = rows.filter(pc.is_null(rows["error"]))
            failed = rows.filter(pc.is_valid(rows["error"]))
            uris, causes = (failed[name].to_pylist() for name in ("image_uri", "error"))
            errors |= dict(zip(uris, causes, strict=True))
            if proposed.num_rows:
                write_part(config.output, proposed.drop_columns("error"), settings)
            written += proposed.num_rows
            progress.update(written + len(errors))
    check_failures(errors, missing.num_rows + len(done), config.max_failures)
    logger.info("%s: wrote the proposals of %d more images", config.output, written)
    return written


def _settings(job: Job) -> dict[str, Any]:
    """Return what the file metadata says about the proposer and the model."""
    model = job.checkpoint.model.config
    assert model.rpn is not None
    tiles = {} if job.tiling is None else {"tiling": asdict(job.tiling)}
    return (
        job.proposals.settings()
        | tiles
        | {
            "model_id": job.checkpoint.model_id,
            "rpn": asdict(model.rpn),
        }
    )


def _done_images(output: str, model_id: str) -> set[tuple[str, str | None]]:
    """Return (image_uri, etag) of the rows that exist.

    Raises:
        UserError: the output holds another file, or proposals of another detector.
    """
    done: set[tuple[str, str | None]] = set()
    for part in storage.list_objects(output, suffixes=(".parquet",), missing_ok=True):
        try:
            file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(part.uri)))
            settings = json.loads((file.schema_arrow.metadata or {}).get(b"proposals", b"{}"))
            table = file.read(columns=["image_uri", "etag"])
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise UserError(
                part.uri, f"is not a part of this table ({error})", "Give another --output."
            ) from error
        if settings.get("model_id") != model_id:
            raise UserError(
                f"--output {output}",
                "holds the proposals of another detector",
                "Give another folder.",
            )
        done.update(image_keys(table))
    return done


def _missing_images(job: Job, done: set[tuple[str, str | None]]) -> pa.Table:
    """Return the images that have no row yet, as rows of PLAN in one shard."""
    parts = [PLAN.empty_table()]
    for named in job.selection.listed.new():
        new = pa.array([key not in done for key in image_keys(named)], pa.bool_())
        parts.append(unplanned(named.filter(new)))
    return pa.concat_tables(parts)


def _propose(missing: pa.Table, job: Job, resources: Resources) -> Iterator[pa.Table]:
    """Yield parts of the table (PROPOSALS_EXPORT), in any order."""
    batch_size = job.config.batch_size
    batches = (
        ray.data.from_arrow(missing)
        .repartition(target_num_rows_per_block=8 * batch_size)
        .map_batches(
            partial(
                read_images,
                settings=replace(read_settings(job), fence_is_enough=False, in_parts=False),
                attempts=SharedAttempts(),
            ),
            batch_size=batch_size,
            batch_format="pyarrow",
            num_cpus=resources.read_cpus,
        )
        .map_batches(
            Proposer,
            fn_constructor_kwargs={
                "checkpoint": job.checkpoint_uri,
                "model_id": job.checkpoint.model_id,
                "gpu": resources.detector_gpus > 0,
                "num_threads": max(1, int(resources.detector_cpus)),
            },
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=resources.workers),
            num_cpus=resources.detector_cpus,
            num_gpus=resources.detector_gpus,
        )
        .iter_batches(batch_size=ROWS_PER_PART, batch_format="pyarrow")
    )
    for batch in cast(Iterable[pa.Table], batches):
        yield batch.cast(PROPOSALS_EXPORT)


class Proposer:
    """A model with an RPN. Turns each candidate (schema.CANDIDATE) into a row (PROPOSALS_EXPORT).

    Args:
        checkpoint: folder or URI.
        settings: further arguments of `pipeline.detector.Detector`.
    """

    def __init__(self, checkpoint: str, **settings: Any) -> None:
        self._detector = Detector(checkpoint, **settings)

    def __call__(self, candidates: pa.Table) -> pa.Table:
        rows, pixels = decode_candidates(candidates, rules=self._detector.rules)
        proposed = iter(self._detector.propose(pixels))
        # (boxes, scores) of each row; None for an image that could not be read or decoded
        outcomes = [next(proposed) if row["status"] == "ok" else None for row in rows]
        return pa.table(
            {
                "image_uri": [row["image_uri"] for row in rows],
                "boxes": boxes_array([None if pair is None else pair[0] for pair in outcomes]),
                "scores": [None if pair is None else pair[1].tolist() for pair in outcomes],
                "etag": [row["etag"] for row in rows],
                "error": [
                    f"{row['status']}: {row['error']}" if pair is None else None
                    for row, pair in zip(rows, outcomes, strict=True)
                ],
            }
        ).cast(PROPOSALS_EXPORT)
