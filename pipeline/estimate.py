"""Turns counts of drawn images into totals with 95% intervals, by class and prefix.

    <output>/estimates.parquet    one row for each region and class (`pipeline.schema.ESTIMATES`)
    <output>/estimates.json       the same, with the run, the rounds and the largest weight
    <output>/estimates.html       a page with the figures, and what they mean

The formulas are in `pipeline.counting.estimators`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import storage
from pipeline.config.counting import EstimateConfig
from pipeline.errors import UserError
from pipeline.results.counted import CountedImage, counts_of, read_counts
from pipeline.results.estimate_rows import Weight, as_rows, largest_weight
from pipeline.results.estimates_page import estimates_page
from pipeline.results.expected import ExpectedCounts, Place, load_expected
from pipeline.results.rounds import Region, Round, check_rounds, measure
from pipeline.results.sampled import Sample, read_sample
from pipeline.results.scored import RunFiles, list_runs
from pipeline.schema import ESTIMATES, encode_parquet

logger = logging.getLogger(__name__)

ESTIMATES_VERSION = 1
"""Format of estimates.parquet."""
_SHOWN = 30
"""Totals that the log lists."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateSummary:
    """The rows that were written, and what was seen on the way."""

    rows: pa.Table
    """ESTIMATES."""
    weight: Weight
    warnings: tuple[str, ...]


def run(config: EstimateConfig) -> EstimateSummary:
    """Estimate, and write the table and the page.

    Raises:
        UserError: a sample is of another run or plan, a drawn image has no count, a count is no count, the
            rounds cannot be joined, or --by asks for prefixes that the state of the run no longer gives.
    """
    storage.check_writable(config.output)
    samples = [read_sample(uri) for uri in config.sample]
    check_rounds(samples)
    files = _run_of(config, samples[0])
    with load_expected(
        files, memory_gib=config.memory_gib, temp_folder=config.temp_folder
    ) as counts:
        _check_plan(config, samples, counts)
        counted = read_counts(config.counts, config.images_at, counts.classes)
        rounds = [_round(sample, counted) for sample in samples]
        regions, warnings = _regions(config, rounds, counts)
    weight = largest_weight(rounds, regions[0])
    if weight.warning:
        warnings.append(weight.warning)
    classes = samples[0].frame.classes
    rows = pa.Table.from_pylist(as_rows(regions, classes, config.width), schema=ESTIMATES)
    summary = EstimateSummary(rows=rows, weight=weight, warnings=tuple(warnings))
    _log(summary)
    if config.dry_run:
        logger.info("--dry-run: nothing was written")
    else:
        _write(config, samples, summary)
    return summary


def _run_of(config: EstimateConfig, sample: Sample) -> RunFiles:
    runs = list_runs(config.scored)
    if sample.run_id not in runs:
        raise UserError(
            f"--sample {sample.uri}",
            f"was drawn from run {sample.run_id}, which is not under --scored {config.scored}",
            f"Give the --scored of that run. This one holds: {', '.join(sorted(runs))}.",
        )
    return runs[sample.run_id]


def _check_plan(config: EstimateConfig, samples: Sequence[Sample], counts: ExpectedCounts) -> None:
    for sample in samples:
        missing = sorted(sample.plans - counts.plans)
        if missing:
            raise UserError(
                f"--sample {sample.uri}",
                f"was drawn from another plan than that of --scored {config.scored}: no shard of"
                f" generation {missing[0][:12]} is there",
                "Give the --scored that the sample was drawn from.",
            )


def _round(sample: Sample, counted: list[CountedImage]) -> Round:
    uris = sample.rows["image_uri"].to_pylist()
    objects = counts_of(uris, counted, sample.frame.classes, sample.uri)
    with_sum = np.concatenate([objects, objects.sum(1, keepdims=True)], 1)
    return Round(sample=sample, counts=with_sum)


def _regions(
    config: EstimateConfig, rounds: Sequence[Round], counts: ExpectedCounts
) -> tuple[list[Region], list[str]]:
    """Measure all images together, then each prefix."""
    frame = rounds[0].sample.frame
    depth = frame.by if config.by is None else config.by
    deepest = min(one.sample.frame.by for one in rounds)
    warnings = []
    changed = _changed(rounds[0].sample, counts)
    if changed:
        warnings.append(changed)
    regions = [_union(rounds, "total", frame.root, 0)]
    if 0 < depth <= deepest:
        prefixes = dict.fromkeys(frame.prefix_of(name, depth) for name in frame.prefixes)
        regions += [_union(rounds, "prefix", prefix, depth) for prefix in prefixes]
    elif depth > deepest:
        if changed:
            raise UserError(
                f"--by {depth}",
                f"asks for smaller prefixes than the sample's (--by {deepest}). This needs the state of the"
                " run in which it was drawn, and images were scored since",
                f"Give --by {deepest} or less.",
            )
        regions += _inner(rounds, counts, depth)
    return regions, warnings


def _changed(sample: Sample, counts: ExpectedCounts) -> str:
    """Return a warning if the run has other images than when the sample was drawn."""
    frame = sample.frame
    then = [
        Place(prefix=prefix, images=images, others=others)
        for prefix, images, others in zip(frame.prefixes, frame.images, frame.others, strict=True)
    ]
    now = counts.places(frame.root, frame.by)
    if now == then:
        return ""
    images, before = sum(place.images for place in now), sum(frame.images)
    return (
        f"the run has {images} images with status ok now; it had {before} when the sample was drawn. The"
        " totals are for the images of that day"
    )


def _union(rounds: Sequence[Round], scope: str, prefix: str, depth: int) -> Region:
    """Measure a region that is a union of strata in every round."""
    frame = rounds[0].sample.frame
    inside = [one.draws_by_prefix(depth).get(prefix, np.zeros(0, np.int64)) for one in rounds]
    cells = [one.strata_cells(prefix, depth) for one in rounds]
    strata = [n for n, name in enumerate(frame.prefixes) if frame.prefix_of(name, depth) == prefix]
    images = sum(frame.images[number] for number in strata)
    result, again = measure(rounds, cells, inside, images)
    expected = np.array(frame.expected)[strata].sum(0)
    return Region(
        scope=scope,
        prefix=prefix,
        images=images,
        others=sum(frame.others[number] for number in strata),
        expected=np.append(expected, expected.sum()),
        draws=sum(len(draws) for draws in inside),
        result=result,
        bootstrap=again,
    )


def _inner(rounds: Sequence[Round], counts: ExpectedCounts, depth: int) -> list[Region]:
    """Measure the prefixes below the strata."""
    frame = rounds[0].sample.frame
    places = counts.places(frame.root, depth)
    prefixes = [place.prefix for place in places]
    masses, expected = (
        np.zeros((len(rounds), len(places))),
        np.zeros((len(places), len(frame.classes))),
    )
    parents = [
        np.array(
            [
                one.sample.frame.prefixes.index(
                    one.sample.frame.prefix_of(name, one.sample.frame.by)
                )
                for name in prefixes
            ]
        )
        for one in rounds
    ]
    designs = [one.sample.frame.design for one in rounds]
    for batch in counts.batches(frame.root, depth, prefixes, frame.classes):
        for number, (parent, design) in enumerate(zip(parents, designs, strict=True)):
            q = design.probabilities(batch.expected, parent[batch.places])
            masses[number] += np.bincount(batch.places, q, len(places))
        for column, values in enumerate(batch.expected.T):
            expected[:, column] += np.bincount(batch.places, values, len(places))
    drawn = [one.draws_by_prefix(depth) for one in rounds]
    regions = []
    for number, place in enumerate(places):
        inside = [draws.get(place.prefix, np.zeros(0, np.int64)) for draws in drawn]
        cells = [
            [one.inner_cell(place.prefix, draws, float(masses[r, number]))]
            for r, (one, draws) in enumerate(zip(rounds, inside, strict=True))
        ]
        result, again = measure(rounds, cells, inside, place.images)
        regions.append(
            Region(
                scope="prefix",
                prefix=place.prefix,
                images=place.images,
                others=place.others,
                expected=np.append(expected[number], expected[number].sum()),
                draws=sum(len(draws) for draws in inside),
                result=result,
                bootstrap=again,
            )
        )
    return regions


def _log(summary: EstimateSummary) -> None:
    for row in summary.rows.slice(0, _SHOWN).to_pylist():
        name = row["label"] or "all classes"
        if row["total"] is None:
            logger.info("%s, %s: unknown (%d draws)", row["prefix"], name, row["draws"])
            continue
        logger.info(
            "%s, %s: %.0f (95%% interval %.0f to %.0f; %d draws; %.1f%% of the images not looked at)",
            row["prefix"],
            name,
            row["total"],
            row["low"],
            row["high"],
            row["draws"],
            100 * row["uncovered"],
        )
        if row["more_draws"] is not None:
            logger.info("  for the wished width: %d draws more", row["more_draws"])
    if summary.rows.num_rows > _SHOWN:
        logger.info("and %d more in estimates.parquet", summary.rows.num_rows - _SHOWN)
    logger.info(
        "largest weight of a draw with objects: %.1f (%s); it makes %.0f%% of the total",
        summary.weight.weight,
        summary.weight.image_uri or "none",
        100 * summary.weight.share,
    )
    for warning in summary.warnings:
        logger.warning("%s", warning)


def _write(config: EstimateConfig, samples: Sequence[Sample], summary: EstimateSummary) -> None:
    described = {
        "run_id": samples[0].run_id,
        "samples": [
            {"uri": sample.uri, "seed": sample.seed, "draws": sample.rows.num_rows}
            for sample in samples
        ],
        "classes": list(samples[0].frame.classes),
        "largest_weight": {
            "image_uri": summary.weight.image_uri,
            "weight": summary.weight.weight,
            "share_of_total": summary.weight.share,
        },
        "warnings": list(summary.warnings),
        "estimates": summary.rows.to_pylist(),
    }
    metadata = {
        b"format_version": str(ESTIMATES_VERSION).encode(),
        b"run_id": samples[0].run_id.encode(),
    }
    with storage.driver_errors(config.output):
        for name, data in (
            ("estimates.json", json.dumps(described, ensure_ascii=False, indent=1).encode()),
            ("estimates.html", estimates_page(described)),
            ("estimates.parquet", encode_parquet(summary.rows, metadata=metadata)),
        ):
            storage.write_bytes(storage.join(config.output, name), data)
    logger.info("written to %s", config.output)
