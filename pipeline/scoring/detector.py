"""The second stage of a scoring job: one model in one process, on a GPU if Ray assigned one.

    candidates (schema.CANDIDATE) -> DetectorActor -> result rows (schema.RESULT), one row for each candidate

`DetectorActor` is a plain callable class; Ray Data makes actors of it. `pipeline.detector.result_rows` makes
the rows.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from fastrcnn.upload import Uploads
from pipeline.detector import Detector
from pipeline.detector.result_rows import failed_row, score_candidates
from pipeline.runtime.attempts import AttemptLog, Attempts
from pipeline.runtime.guard import attempt
from pipeline.storage import OPEN, Access


class DetectorActor:
    """A loaded model that turns candidates (CANDIDATE) into result rows (RESULT).

    Args:
        checkpoint: folder or URI; the process that makes the actor downloads it.
        run_id: written into every row.
        attempts: counts of the batches that were begun and not finished, shared by all workers.
        images_per_pass: candidates per forward pass. The next ones are decoded and uploaded while these are
            in the network. None passes all candidates of a call at once.
        decode_threads: images that are decoded at the same time.
        access: what may be read of the images of which the Detector reads parts.
        settings: further arguments of `pipeline.detector.Detector`.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        run_id: str = "",
        attempts: Attempts | None = None,
        images_per_pass: int | None = None,
        decode_threads: int = 1,
        access: Access = OPEN,
        **settings: Any,
    ) -> None:
        self._detector = Detector(checkpoint, **settings)
        self._attempts = attempts or AttemptLog()
        self._score = partial(
            score_candidates,
            self._detector,
            run_id=run_id,
            uploads=Uploads(self._detector.network.device),
            images_per_pass=images_per_pass,
            decode_threads=decode_threads,
            access=access,
        )
        self._fail = partial(failed_row, self._detector, run_id=run_id)

    def __call__(self, candidates: pa.Table) -> pa.Table:
        """Score a batch. If it raises, or a process died with it before, score the images one at a time."""
        return attempt(
            candidates,
            self._score,
            self._fail,
            stage="detect",
            attempts=self._attempts,
            alone=partial(self._score, fenced=True),
            next_follows=True,
        )
