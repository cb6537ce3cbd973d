"""Makes one HTML page of a scoring run: counts, histograms, times, failures, accuracy, pictures with boxes.

A database on this machine's disk counts the rows (`pipeline.results.tables`). The page holds only the counts
and a bounded number of small pictures, so its size does not depend on the number of images.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.config import EvaluateConfig, ReportConfig
from pipeline.evaluate import EvaluationResult, measure
from pipeline.results.figures import figures
from pipeline.results.gallery import gallery
from pipeline.results.page import page
from pipeline.results.scored import RunFiles, find_run
from pipeline.results.tables import load_run

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
    files = find_run(config.scored, config.run_id)
    uri = page_uri(config, files.run_id)
    with storage.driver_errors(uri):
        storage.exists(uri)  # reports a missing bucket before the rows are counted
    measured = _measure(config, files)
    with load_run(files, memory_gib=config.memory_gib, temp_folder=config.temp_folder) as tables:
        data = figures(tables) | {
            "run_id": files.run_id,
            "model_id": tables.model_id,
            "scored": config.scored,
            "made_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "evaluation": measured and describe(measured, config.split),
        }
        logger.info("run %s: %d images, %d boxes", files.run_id, data["images"], data["boxes"])
        count = 0 if config.dry_run else config.gallery
        data["gallery"] = gallery(
            tables, count=count, side=config.thumbnail, max_bytes=int(config.gallery_mib * 2**20)
        )
    title = f"{data['images']:,} images, {data['boxes']:,} boxes"
    whole = page(title, data)
    if config.dry_run:
        logger.info("--dry-run: nothing was written to %s", uri)
    else:
        with storage.driver_errors(uri):
            storage.write_bytes(uri, whole)
        logger.info(
            "wrote %s: %.1f MB with %d pictures",
            uri,
            len(whole) / 1e6,
            len(data["gallery"]["items"]),
        )
    return ReportSummary(
        uri=uri,
        images=data["images"],
        boxes=data["boxes"],
        pictures=len(data["gallery"]["items"]),
        size_bytes=0 if config.dry_run else len(whole),
    )


def page_uri(config: ReportConfig, run_id: str) -> str:
    """Return the URI of the page."""
    if config.output.endswith(".html"):
        return config.output
    return storage.join(config.output, "report", f"{run_id}.html")


def _measure(config: ReportConfig, files: RunFiles) -> EvaluationResult | None:
    if config.data is None:
        return None
    asked = EvaluateConfig(scored=config.scored, data=config.data, split=config.split)
    return measure(asked, files)


def describe(result: EvaluationResult, split: str) -> dict[str, Any]:
    """Describe an evaluation with JSON types.

    `curve` has, for each hundredth of recall, the best precision at this recall or a higher one.
    """
    rows = zip(
        result.classes,
        result.voc07.num_gt.tolist(),
        result.voc07.ap.tolist(),
        result.voc10.ap.tolist(),
        result.coco.ap_per_class.tolist(),
        result.voc07.curves,
        strict=True,
    )
    return {
        "split": split,
        "images": sum(result.images_by_status.values()),
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
            }
            for name, objects, voc07, voc10, coco, curve in rows
        ],
    }


def _curve(recall: np.ndarray, precision: np.ndarray) -> list[float]:
    """Return the precision at the recalls 0, 0.01, ... up to the highest recall that was reached."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS)
    return [round(float(p), 4) for p in best[places[places < len(best)]]]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)
