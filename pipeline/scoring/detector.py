"""The second stage of a scoring job: one model in one process, on a GPU if Ray assigned one.

    candidates (schema.CANDIDATE) -> DetectorActor -> result rows (schema.RESULT), one row for each candidate

A candidate whose status is not `ok` skips the model. `DetectorActor` is a plain callable class; Ray Data
makes actors of it.
"""

from __future__ import annotations

import datetime
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from fastrcnn.detection import Scored
from fastrcnn.upload import Uploads
from pipeline.detector import Detector
from pipeline.runtime.attempts import AttemptLog, Attempts, attempt
from pipeline.schema import CANDIDATE, RESULT
from pipeline.scoring.batches import decoded_batches


class DetectorActor:
    """A loaded model that turns candidates (CANDIDATE) into result rows (RESULT).

    Args:
        checkpoint: folder or URI; the process that makes the actor downloads it.
        run_id: written into every row.
        attempts: counts of the batches that were begun and not finished, shared by all workers.
        images_per_pass: candidates per forward pass. The next ones are decoded and uploaded while these are
            in the network. None passes all candidates of a call at once.
        settings: further arguments of `pipeline.detector.Detector`.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        run_id: str = "",
        attempts: Attempts | None = None,
        images_per_pass: int | None = None,
        **settings: Any,
    ) -> None:
        self._detector = Detector(checkpoint, **settings)
        self._attempts = attempts or AttemptLog()
        self._run_id = run_id
        self._score = partial(
            score_candidates,
            self._detector,
            run_id=run_id,
            uploads=Uploads(self._detector.device),
            images_per_pass=images_per_pass,
        )

    def __call__(self, candidates: pa.Table) -> pa.Table:
        """Score a batch. If a process died with this batch before, the images are scored one at a time."""
        return attempt(
            candidates,
            self._score,
            self._fail,
            stage="detect",
            attempts=self._attempts,
            alone=partial(self._score, fenced=True),
        )

    def _fail(self, candidate: pa.Table, cause: str) -> pa.Table:
        row = candidate.to_pylist()[0] | {"status": "failed", "error": cause}
        now = datetime.datetime.now(datetime.UTC)
        result = _result(self._detector, row, None, run_id=self._run_id, now=now)
        return pa.Table.from_pylist([result], schema=RESULT)


def score_candidates(
    detector: Detector,
    candidates: pa.Table,
    *,
    run_id: str = "",
    uploads: Uploads | None = None,
    images_per_pass: int | None = None,
    fenced: bool = False,
) -> pa.Table:
    """Turn candidates (CANDIDATE) into result rows (RESULT): one row for each candidate, in the same order.

    Args:
        detector: scores the images.
        candidates: with any status; only those with status `ok` are scored.
        run_id: written into every row.
        uploads: copies pixels to the device of the detector; the caller reuses it. None makes one.
        images_per_pass: candidates per forward pass, see `DetectorActor`.
        fenced: decode in another process, which an image can kill without harm to this one.
    """
    started = time.perf_counter()
    results: list[dict[str, Any]] = []
    for batch in decoded_batches(
        candidates,
        uploads or Uploads(detector.device),
        images_per_pass=images_per_pass,
        max_pixels=detector.max_pixels,
        fenced=fenced,
    ):
        outcomes = iter(detector.score(batch.images.wait(), batch.proposals))
        now = datetime.datetime.now(datetime.UTC)
        for row in batch.rows:
            outcome = next(outcomes) if row["status"] == "ok" else None
            results.append(_result(detector, row, outcome, run_id=run_id, now=now))
    seconds_each = (time.perf_counter() - started) / max(1, len(results))
    for result in results:
        result["detect_s"] = seconds_each
    return pa.Table.from_pylist(results, schema=RESULT)


def _result(
    detector: Detector,
    row: dict[str, Any],
    outcome: Scored | str | None,
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
        "num_detections": len(outcome.detections.scores),
        "detections": detector.boxes(outcome),
    }
