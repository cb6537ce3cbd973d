"""Turns candidates (schema.CANDIDATE) into result rows (schema.RESULT): one row for each, in the same order.

A candidate whose status is not `ok` skips the model. Its row keeps the status and the cause.
"""

from __future__ import annotations

import datetime
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fastrcnn.detection import ScoredImage
from fastrcnn.upload import Uploads
from pipeline.detector.batches import decoded_batches
from pipeline.detector.in_parts import decoded_in_parts, score_in_parts
from pipeline.runtime.guard import Failure, node_name
from pipeline.schema import CANDIDATE, RESULT
from pipeline.storage import OPEN, Access

if TYPE_CHECKING:
    from pipeline.detector import Detector


def score_candidates(
    detector: Detector,
    candidates: pa.Table,
    *,
    run_id: str = "",
    uploads: Uploads | None = None,
    images_per_pass: int | None = None,
    decode_threads: int = 1,
    fenced: bool = False,
    access: Access = OPEN,
) -> pa.Table:
    """Turn candidates (CANDIDATE) into result rows (RESULT): one row for each candidate, in the same order.

    Args:
        detector: scores the images.
        candidates: with any status; only those with status `ok` are scored.
        run_id: written into every row.
        uploads: copies pixels to the device of the detector; the caller reuses it. None makes one.
        images_per_pass: most candidates of a forward pass, whose images have equal canvases; with tiles, the
            whole images and tiles of a pass. The next ones are decoded and uploaded while these are in the
            network. None sets no limit.
        decode_threads: images that are decoded at the same time.
        fenced: decode in another process, which an image can kill without harm to this one.
        access: what may be read of the images that are decoded in parts.
    """
    started = time.perf_counter()
    results: list[dict[str, Any]] = [{}] * candidates.num_rows
    apart = decoded_in_parts(candidates, detector)
    for index in apart:
        row = candidates.slice(index, 1).to_pylist()[0]
        outcome = score_in_parts(detector, row, access, images_per_pass)
        now = datetime.datetime.now(datetime.UTC)
        results[index] = _result_row(detector, row, outcome, run_id=run_id, now=now)
    others = [index for index in range(candidates.num_rows) if not results[index]]
    for batch in decoded_batches(
        candidates.take(pa.array(others, pa.int64())) if apart else candidates,
        uploads or Uploads(detector.network.device),
        images_per_pass=images_per_pass,
        max_pixels=detector.max_pixels,
        canvas=detector.network.canvases,
        rules=detector.rules,
        truncated=detector.truncated,
        fenced=fenced,
        threads=decode_threads,
    ):
        outcomes = iter(
            detector.network.score(batch.images.wait(), batch.proposals, images_per_pass)
        )
        now = datetime.datetime.now(datetime.UTC)
        for index, row in zip(batch.indices, batch.rows, strict=True):
            outcome = next(outcomes) if row["status"] == "ok" else None
            results[others[index]] = _result_row(detector, row, outcome, run_id=run_id, now=now)
    seconds_each = (time.perf_counter() - started) / max(1, len(results))
    for result in results:
        result["detect_s"] = seconds_each
    return pa.Table.from_pylist(results, schema=RESULT)


def failed_row(
    detector: Detector, candidate: pa.Table, failure: Failure, *, run_id: str
) -> pa.Table:
    """Make the result row (RESULT) of a candidate that could not be scored."""
    row = candidate.to_pylist()[0] | {"status": failure.status, "error": failure.cause}
    row |= {"node": node_name(), "traceback": failure.traceback}
    if row["proposals"] is None:  # the size is that of the header, which may not be upright
        row |= {"width": None, "height": None}
    now = datetime.datetime.now(datetime.UTC)
    result = _result_row(detector, row, None, run_id=run_id, now=now)
    return pa.Table.from_pylist([result], schema=RESULT)


def _result_row(
    detector: Detector,
    row: dict[str, Any],
    outcome: ScoredImage | str | None,
    *,
    run_id: str,
    now: datetime.datetime,
) -> dict[str, Any]:
    """Make one result row.

    Args:
        detector: the model that scored the image.
        row: the candidate.
        outcome: the boxes, or the reason why the image failed, or None if the image was not scored.
        run_id: written into the row.
        now: written into the row as `scored_at`.
    """
    result = {name: row[name] for name in CANDIDATE.names if name in RESULT.names}
    result |= {
        "model_id": detector.model_id,
        "run_id": run_id,
        "scored_at": now,
        "num_proposals": len(row["proposals"]) // 16 if row["proposals"] is not None else None,
    }
    if isinstance(outcome, str):
        return result | {"status": "failed", "error": outcome}
    if outcome is None:
        return result
    return result | {
        "num_proposals": outcome.num_proposals,
        "num_tiles": outcome.num_tiles,
        "num_detections": len(outcome.detections.scores),
        "detections": detector.boxes(outcome),
    }
