"""Makes one HTML page of a scoring run: counts, histograms, times, failures, accuracy, pictures with boxes.

A database on this machine's disk counts the rows (`pipeline.results.tables`). The page holds only the counts
and a bounded number of small pictures, so its size does not depend on the number of images.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.config import EvaluateConfig, ReportConfig
from pipeline.errors import UserError
from pipeline.evaluate import EvaluationResult, measure
from pipeline.results.compared import Comparison, compare
from pipeline.results.figures import figures
from pipeline.results.gallery import gallery
from pipeline.results.page import page
from pipeline.results.reliability_figure import reliability_section
from pipeline.results.run_config import RunConfig, read_run_config
from pipeline.results.scored import RunFiles, find_run, list_runs
from pipeline.results.selection import select_rows
from pipeline.results.shifts import log_shifts, shifts_of_run
from pipeline.results.tables import RunTables, load_other, load_run
from pipeline.results.truth import Judged

logger = logging.getLogger(__name__)

_RECALLS = np.linspace(0, 1, 101)
"""Recalls at which the curves are drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSummary:
    """The page that was written, and its counts."""

    uri: str
    images: int
    boxes: int
    pictures: int
    size_bytes: int
    """Size of the page; 0 with --dry-run."""


def run(config: ReportConfig) -> ReportSummary:
    """Write the page of one run.

    Raises:
        UserError: there is no run, or several and no --run-id; the labels do not fit the run; or access is
            denied.
        JobError: the disk is full or the memory is too small.
    """
    files, other = _find(config)
    uri = page_uri(config, files.run_id)
    storage.check_writable(uri)
    with storage.driver_errors(uri):
        storage.exists(uri)  # reports a missing bucket before the rows are counted
    described = read_run_config(files)
    measured = _measure(config, files)
    with load_run(files, memory_gib=config.memory_gib, temp_folder=config.temp_folder) as tables:
        _check_numbers(config, tables)
        data = _contents(config, files, tables, described, measured, other)
        shifts = shifts_of_run(files.uris, described.checkpoint, tables.classes) or ()
        log_shifts(shifts, tables.classes, files.run_id)
        reliability = reliability_section(measured, shifts, tables.classes)
    title = f"{_plural(data['images'], 'image')}, {_plural(data['shown'], 'box', 'boxes')}"
    html = page(title, data, reliability=reliability)
    if config.dry_run:
        logger.info("--dry-run: nothing was written to %s", uri)
    else:
        with storage.driver_errors(uri):
            storage.write_bytes(uri, html)
        logger.info(
            "wrote %s: %.1f MB with %d pictures",
            uri,
            len(html) / 1e6,
            len(data["gallery"]["items"]),
        )
    return ReportSummary(
        uri=uri,
        images=data["images"],
        boxes=data["boxes"],
        pictures=len(data["gallery"]["items"]),
        size_bytes=0 if config.dry_run else len(html),
    )


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def page_uri(config: ReportConfig, run_id: str) -> str:
    """Return the URI of the page."""
    if config.output.endswith(".html"):
        return config.output
    return storage.join(config.output, "report", f"{run_id}.html")


def _find(config: ReportConfig) -> tuple[RunFiles, RunFiles | None]:
    """Find the run, and the run to compare with.

    Raises:
        UserError: there is no such run; or there are several and no flag chooses.
    """
    if config.compare is None:
        return find_run(config.scored, config.run_id), None
    runs = list_runs(config.scored)
    if config.compare not in runs:
        raise UserError(
            f"--compare {config.compare}",
            f"is not under {config.scored}",
            f"Give one of: {', '.join(sorted(runs))}.",
        )
    others = [run_id for run_id in runs if run_id != config.compare]
    chosen = config.run_id or (others[0] if len(others) == 1 else None)
    if not others:
        raise UserError(
            f"--compare {config.compare}",
            f"is the only run under {config.scored}",
            "Score the images with another model or other flags into the same --output first.",
        )
    return find_run(config.scored, chosen), runs[config.compare]


def _check_numbers(config: ReportConfig, tables: RunTables) -> None:
    """Raise UserError if a score or an edge is no finite number: such a box has no place and no rank."""
    numbers = ("score", "x_min", "y_min", "x_max", "y_max")
    wrong = " OR ".join(f"NOT isfinite({name})" for name in numbers)
    query = f"SELECT count(*), min(image_uri) FROM boxes WHERE coalesce({wrong}, true)"
    ((count, example),) = tables.rows(query)
    if count:
        raise UserError(
            f"--scored {config.scored}",
            f"has {count} boxes with a score or an edge that is no finite number, one of them in {example}",
            "jobs/score_bucket.py writes no such box: restore the table, or score the images again.",
        )


def _contents(
    config: ReportConfig,
    files: RunFiles,
    tables: RunTables,
    described: RunConfig,
    measured: EvaluationResult | None,
    other: RunFiles | None,
) -> dict[str, Any]:
    """Compute all data of the page, as JSON types."""
    points = described.points(tables.classes)
    tables.start_at(points)
    thresholds = np.array(list(points.values()), np.float64)
    data = figures(tables) | {
        "has_points": described.has_points,
        "run_id": files.run_id,
        "model_id": tables.model_id,
        "scored": config.scored,
        "shards": glob_of(files.uris[0].rpartition("/")[0]),
        "has_generations": tables.rows(
            "SELECT count(*) > 0 FROM images WHERE generation IS NOT NULL"
        )[0][0],
        "made_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "evaluation": measured and describe(measured, config.split, thresholds),
        "compare": None,
    }
    logger.info(
        "run %s: %d images, %d boxes, of which the page starts with the %d from %s on",
        files.run_id,
        data["images"],
        data["boxes"],
        data["shown"],
        "the operating points of the checkpoint" if described.has_points else "score 0.5",
    )
    comparison, other_tables = None, None
    if other is not None:
        other_tables = load_other(tables, other)
        comparison, data["compare"] = _compare(config, tables, other_tables, other)
    judged = None if measured is None else Judged.of(measured)
    count = 0 if config.dry_run else config.gallery
    preferred = _preferred(tables, judged, comparison, thresholds, count)
    data["gallery"] = gallery(
        tables,
        select_rows(tables, count, preferred),
        side=config.thumbnail,
        crops=config.crops,
        max_bytes=int(config.gallery_mib * 2**20),
        rules=described.rules,
        judged=judged,
        other=other_tables,
    )
    return data


def glob_of(folder: str) -> str:
    """Return the glob of DuckDB for the shards of a folder, whose own name is no pattern."""
    return re.sub(r"[*?\[]", r"[\g<0>]", folder) + "/*.parquet"


def _compare(
    config: ReportConfig, tables: RunTables, other: RunTables, files: RunFiles
) -> tuple[Comparison, dict[str, Any]]:
    """Compare with another run, from the operating points of both."""
    described = read_run_config(files)
    points = described.points(other.classes)
    other.start_at(points)
    comparison, counts = compare(tables, other)
    measured = _measure(replace(config, compare=None), files)
    logger.info(
        "run %s: %d images, %d boxes; %d images are in both runs; in %d of %d compared ones all boxes agree",
        files.run_id,
        counts["images"],
        counts["shown"],
        counts["in_both"],
        counts["alike"],
        counts["compared"],
    )
    thresholds = np.array(list(points.values()), np.float64)
    return comparison, counts | {
        "run_id": files.run_id,
        "has_points": described.has_points,
        "points": [round(points[name], 5) for name in other.classes],
        "evaluation": measured and describe(measured, config.split, thresholds),
    }


def _preferred(
    tables: RunTables,
    judged: Judged | None,
    comparison: Comparison | None,
    thresholds: npt.NDArray[np.float64],
    count: int,
) -> list[list[int]]:
    """List the images to show first: those with mistakes, and those where two runs differ."""
    lists: list[list[int]] = []
    if comparison is not None:
        lists.append([*comparison.differences][:count])
    if judged is not None:
        by_uri = judged.examples(thresholds, count)
        uris = sorted({uri for one in by_uri for uri in one})
        rows: dict[str, int] = {
            uri: row
            for uri, row in tables.rows(
                "SELECT image_uri, row FROM images WHERE status = 'ok' AND list_contains($1, image_uri)",
                (uris,),
            )
        }
        lists += [[rows[uri] for uri in one if uri in rows] for one in by_uri]
    return lists


def _measure(config: ReportConfig, files: RunFiles) -> EvaluationResult | None:
    if not config.has_labels:
        return None
    labels = EvaluateConfig(
        scored=config.scored,
        data=config.data,
        annotations=config.annotations,
        images_at=config.images_at,
        split=config.split,
        rename=config.rename,
        on_bad_label=config.on_bad_label,
    )
    return measure(labels, files, leave_out_unknown=True)


def describe(
    result: EvaluationResult, split: str, thresholds: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Describe an evaluation with JSON types.

    `curve` has, for each hundredth of recall, the best precision at this recall or a higher one. Counts are
    those from the scores `thresholds` (K,) on.
    """
    counts = Judged.of(result).figures(thresholds)
    rows = zip(
        result.classes,
        result.voc07.num_gt.tolist(),
        result.voc07.ap.tolist(),
        result.voc10.ap.tolist(),
        result.coco.ap_per_class.tolist(),
        result.voc07.curves,
        counts.pop("counts"),
        strict=True,
    )
    return counts | {
        "split": split,
        "images": sum(result.images_by_status.values()),
        "left_out": list(result.left_out.items()),
        "voc07": _number(result.voc07.mean_ap),
        "voc10": _number(result.voc10.mean_ap),
        "coco": _number(result.coco.ap),
        "classes": [
            {
                "name": name,
                "objects": objects,
                "voc07": _number(voc07),
                "voc10": _number(voc10),
                "coco": _number(coco),
                "curve": _curve(curve.recall, curve.precision),
                "counts": by_class,
            }
            for name, objects, voc07, voc10, coco, curve, by_class in rows
        ],
    }


def _curve(recall: np.ndarray, precision: np.ndarray) -> list[float]:
    """Return the precision at the recalls 0, 0.01, ... up to the highest recall that was reached."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS)
    return [round(float(p), 4) for p in best[places[places < len(best)]]]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)
