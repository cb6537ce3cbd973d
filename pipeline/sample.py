"""Draws the images of a scoring run that a person counts, so that `pipeline.estimate` gives totals with
intervals (`pipeline.counting.draw`).

    <output>/sample.parquet    one row for each draw (`pipeline.schema.SAMPLE`)
    <output>/tasks/            labelling tasks, each image once (`pipeline.results.tasks`)

The expected counts pass by three times: to sum them, to sum them with their floors, and to draw.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import storage
from pipeline.config.counting import SampleConfig
from pipeline.counting import Walk, allocate, floors_for
from pipeline.errors import UserError
from pipeline.results.expected import (
    SURE,
    Batch,
    ExpectedCounts,
    Place,
    is_calibrated,
    load_expected,
)
from pipeline.results.run_config import read_run_config
from pipeline.results.sampled import Frame, Sample, encode_sample, read_sample, sample_uri
from pipeline.results.scored import RunFiles, find_run
from pipeline.results.shifts import log_shifts, shifts_of_run
from pipeline.results.tasks import task_files
from pipeline.schema import SAMPLE
from pipeline.storage.chains import unpacked

logger = logging.getLogger(__name__)

FEW_DRAWS = 100
"""Below this number, objects that the detector misses are often not in the sample."""
_SHOWN = 20
"""Prefixes that the log lists."""

Floats = npt.NDArray[np.float64]


def run(config: SampleConfig) -> Sample:
    """Draw, and write the sample and the tasks. The same command again writes the same files.

    Raises:
        UserError: there is no run, or several and no --run-id; it has no image with status ok; the budget is
            too small for the prefixes; a class is not the detector's; or --output holds another sample.
    """
    storage.check_writable(config.output)
    files = find_run(config.scored, config.run_id)
    _warn(config, files)
    with load_expected(
        files, memory_gib=config.memory_gib, temp_folder=config.temp_folder
    ) as counts:
        described = read_run_config(files)
        shifts = shifts_of_run(files.uris, described.checkpoint, counts.classes)
        log_shifts(shifts or (), counts.classes, files.run_id)
        _warn_of_crowds(counts, described.most_boxes)
        classes = _chosen(config, counts)
        root = counts.root()
        frame = _frame(config, counts, root, classes, counts.places(root, config.by))
        sample = _draw(config, counts, files, frame)
    _log(sample)
    if config.dry_run:
        logger.info("--dry-run: nothing was written")
        return sample
    _write(config, sample)
    return sample


def _warn(config: SampleConfig, files: RunFiles) -> None:
    if is_calibrated(files) is False:
        logger.warning(
            "the scores of run %s are not calibrated, so their sums are poor guesses. The totals will be"
            " right, but with wider intervals. jobs/calibrate.py makes a calibrated checkpoint",
            files.run_id,
        )
    if config.budget < FEW_DRAWS:
        logger.warning(
            "--budget %d: intervals from fewer than %d draws are too narrow too often",
            config.budget,
            FEW_DRAWS,
        )


def _warn_of_crowds(counts: ExpectedCounts, most: int | None) -> None:
    """Warn of images that may hold far more objects than the detector gives boxes."""
    crowded = 0 if most is None else counts.crowded(most)
    if crowded:
        logger.warning(
            "%d images have %d boxes, the most that this run gives, and no score in them is below %g. They"
            " may hold far more objects; then the intervals are too narrow too often. Score with a larger"
            " --max-detections first",
            crowded,
            most,
            SURE,
        )


def _chosen(config: SampleConfig, counts: ExpectedCounts) -> tuple[str, ...]:
    unknown = [name for name in config.classes if name not in counts.classes]
    if unknown:
        raise UserError(
            f"--classes {' '.join(config.classes)}",
            f"the detector has no class {unknown[0]!r}",
            f"Its classes are: {', '.join(counts.classes)}.",
        )
    return config.classes or counts.classes


def _frame(
    config: SampleConfig,
    counts: ExpectedCounts,
    root: str,
    classes: tuple[str, ...],
    places: list[Place],
) -> Frame:
    """Sum the expected counts, and share out the draws."""
    images = np.array([place.images for place in places])
    if not images.any():
        raise UserError(
            f"--scored {config.scored}",
            "has no image with status ok",
            "Score the images again (jobs/score_bucket.py --retry).",
        )
    prefixes = [place.prefix for place in places]
    shape = (len(places), len(classes))
    expected, masses = np.zeros(shape), np.zeros(shape)
    for batch in counts.batches(root, config.by, prefixes, classes):
        expected += _sums(batch, batch.expected, len(places))
    floors = floors_for(expected, images) if config.floor is None else np.full(shape, config.floor)
    for batch in counts.batches(root, config.by, prefixes, classes):
        masses += _sums(batch, np.maximum(batch.expected, floors[batch.places]), len(places))
    try:
        draws = allocate(masses.sum(1), images, config.budget)
    except ValueError as error:
        least = 2 * int((images > 0).sum())
        raise UserError(
            f"--budget {config.budget} --by {config.by}",
            f"{int((images > 0).sum())} prefixes need two draws each",
            f"Give --budget {least} or more, or a smaller --by.",
        ) from error
    # A stratum without images has no mass. Its probabilities are never asked for, but must be numbers.
    masses[images == 0] = 1.0
    return Frame(
        root=root,
        by=config.by,
        classes=classes,
        prefixes=tuple(prefixes),
        images=tuple(images.tolist()),
        others=tuple(place.others for place in places),
        draws=tuple(draws.tolist()),
        expected=_rows(expected),
        floors=_rows(floors),
        masses=_rows(masses),
    )


def _sums(batch: Batch, values: Floats, num_places: int) -> Floats:
    """Sum values (B, K) by place: (H, K)."""
    columns = [np.bincount(batch.places, column, num_places) for column in values.T]
    return np.stack(columns, 1)


def _rows(values: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())


def _draw(config: SampleConfig, counts: ExpectedCounts, files: RunFiles, frame: Frame) -> Sample:
    design, walk = frame.design, Walk(frame.draws, config.seed)
    for batch in counts.batches(frame.root, frame.by, frame.prefixes, frame.classes):
        walk.pass_by(batch.rows, batch.places, design.probabilities(batch.expected, batch.places))
    rows, strata, within = walk.finish()
    # The order says nothing about the stratum or the expected count.
    order = np.random.default_rng((config.seed, len(frame.draws))).permutation(len(rows))
    rows, strata, within = rows[order], strata[order], within[order]
    names = counts.names(rows)
    uris, etags = zip(*(names[row] for row in rows.tolist()), strict=True)
    shares = np.array(frame.draws) / config.budget
    table = pa.table(
        [
            pa.array(np.arange(len(rows))),
            pa.array(uris, pa.string()),
            pa.array(etags, pa.string()),
            pa.array(within * shares[strata]),
            pa.array([frame.prefixes[stratum] for stratum in strata], pa.string()),
        ],
        schema=SAMPLE,
    )
    return Sample(
        uri=sample_uri(config.output),
        run_id=files.run_id,
        plans=counts.plans,
        seed=config.seed,
        frame=frame,
        rows=table,
    )


def _log(sample: Sample) -> None:
    frame = sample.frame
    distinct = len(set(sample.rows["image_uri"].to_pylist()))
    logger.info(
        "run %s: %d draws of %d different images, from %d images with status ok; %d others are not covered",
        sample.run_id,
        sample.rows.num_rows,
        distinct,
        sum(frame.images),
        sum(frame.others),
    )
    for number, prefix in enumerate(frame.prefixes[:_SHOWN]):
        logger.info(
            "  %s: %d images, %.1f expected objects, %d draws",
            prefix,
            frame.images[number],
            sum(frame.expected[number]),
            frame.draws[number],
        )
    if len(frame.prefixes) > _SHOWN:
        logger.info("  and %d more prefixes", len(frame.prefixes) - _SHOWN)


def _write(config: SampleConfig, sample: Sample) -> None:
    if storage.exists(sample.uri):
        other = read_sample(sample.uri)
        if (other.run_id, other.seed, other.frame) != (
            sample.run_id,
            sample.seed,
            sample.frame,
        ) or (not other.rows.equals(sample.rows)):
            raise UserError(
                f"--output {config.output}",
                "holds another sample",
                "Give another folder. Counts of the old sample do not fit a new one.",
            )
    images = list(dict.fromkeys(sample.rows["image_uri"].to_pylist()))
    if config.image_root is not None:
        root = config.image_root
        below = [unpacked(uri).removeprefix(sample.frame.root) for uri in images]
        images = [storage.join(root, path) for path in below]
    with storage.driver_errors(config.output):
        for path, text in task_files(images, sample.frame.classes).items():
            storage.write_bytes(storage.join(config.output, path), text.encode())
        storage.write_bytes(sample.uri, encode_sample(sample))
    logger.info(
        "written to %s. Count every object in each image of tasks/ before you look at its boxes; then run"
        " jobs/estimate.py",
        config.output,
    )
